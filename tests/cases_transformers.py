"""Families of transformers, built from small configurations of two layers."""

from typing import Any

import torch
from torch import nn

from case import Case, Inputs, add, floats, gated, images, residual, tokens, transformers

SMALL: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
GPT: dict[str, Any] = {"vocab_size": 99, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
TOKENS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GROUPED: dict[str, Any] = {**SMALL, "num_key_value_heads": 1}
# An encoder and a decoder.
BOTH: dict[str, Any] = {
    "vocab_size": 99,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "decoder_start_token_id": 1,
    **TOKENS,
}
VISION: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def translation() -> Inputs:
    return (), {"input_ids": tokens()()[0][0], "decoder_input_ids": tokens()()[0][0], "use_cache": False}


def detr() -> nn.Module:
    import transformers

    stages = {"hidden_sizes": [8, 16], "depths": [1, 1], "out_features": ["stage2"]}
    backbone = transformers.ResNetConfig(embedding_size=8, layer_type="basic", **stages)
    options = {key: value for key, value in BOTH.items() if key != "vocab_size"}
    config = transformers.DetrConfig(**options, backbone_config=backbone, num_queries=5)
    return transformers.DetrForObjectDetection(config)


def segformer() -> nn.Module:
    import transformers

    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 8], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=8
    )
    model = transformers.SegformerForSemanticSegmentation(config).eval()
    model(torch.zeros(1, 3, 64, 64))  # its first run leaves hooks behind, with which the head reads the stages
    return model


def clip() -> nn.Module:
    import transformers

    text = {**SMALL, **TOKENS, "hidden_act": "gelu"}
    config = transformers.CLIPConfig(text_config=text, vision_config={**VISION, "hidden_act": "gelu"}, projection_dim=8)
    return transformers.CLIPModel(config)


# Two skips in each of two layers, where nothing else is said. RMSNorm is written out in these models, and its
# x · rsqrt(…) is a product of data that the census counts, and no gate.
TRANSFORMERS = [
    Case("bert", transformers("BertModel", "BertConfig", **SMALL), tokens(), add(4), residual(4, 0, 1)),
    Case(
        "bert_masked",
        transformers("BertModel", "BertConfig", **SMALL, attn_implementation="eager"),
        lambda: (tokens()()[0], {"attention_mask": torch.ones(2, 8, dtype=torch.long)}),
        add(4),
        residual(4, 0, 1),
    ),
    # Positions are counted from the tokens that are no padding: two embeddings of the input are added.
    Case("roberta", transformers("RobertaModel", "RobertaConfig", **SMALL), tokens(), add(4), fusions=1),
    Case(
        "albert",
        transformers("AlbertModel", "AlbertConfig", **{**SMALL, "embedding_size": 8, "hidden_act": "gelu"}),
        tokens(),
        add(4),
        residual(4, 0, 1),
    ),
    Case(
        "distilbert",
        transformers(
            "DistilBertModel", "DistilBertConfig", vocab_size=99, dim=16, n_layers=2, n_heads=2, hidden_dim=32
        ),
        tokens(),
        add(4),
        residual(4, 0, 1),
    ),
    Case(
        "electra",
        transformers("ElectraModel", "ElectraConfig", **SMALL, embedding_size=8),
        tokens(),
        add(4),
        residual(4, 0, 1),
    ),
    # A Fourier transform has no weights: only the MLP's sum is a skip.
    Case(
        "fnet",
        transformers("FNetModel", "FNetConfig", **{**SMALL, "hidden_act": "gelu"}),
        tokens(),
        add(2),
        residual(2, 0, 1),
    ),
    Case("gpt2", transformers("GPT2LMHeadModel", "GPT2Config", **GPT, **TOKENS), tokens(use_cache=False), add(4)),
    Case(
        "gpt_neo",
        transformers(
            "GPTNeoModel",
            "GPTNeoConfig",
            vocab_size=99,
            hidden_size=16,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global", "local"], 1]],
            max_position_embeddings=32,
            **TOKENS,
        ),
        tokens(use_cache=False),
        add(4),
    ),
    Case(
        "opt",
        transformers(
            "OPTModel",
            "OPTConfig",
            vocab_size=99,
            hidden_size=16,
            num_hidden_layers=2,
            ffn_dim=32,
            num_attention_heads=2,
            max_position_embeddings=32,
            word_embed_proj_dim=16,
            **TOKENS,
        ),
        tokens(use_cache=False),
        add(4),
        residual(4, 0, 1),
    ),
    Case(
        "bloom",
        transformers("BloomModel", "BloomConfig", vocab_size=99, hidden_size=16, n_layer=2, n_head=2, **TOKENS),
        tokens(use_cache=False),
        add(4),
    ),
    # Attention and MLP in parallel: one skip with two branches a layer.
    Case(
        "gpt_neox",
        transformers("GPTNeoXModel", "GPTNeoXConfig", **SMALL),
        tokens(use_cache=False),
        add(2),
        (3**2, 0, 2),
    ),
    Case(
        "gptj",
        transformers("GPTJModel", "GPTJConfig", **GPT, **TOKENS, rotary_dim=4, activation_function="gelu"),
        tokens(use_cache=False),
        add(2),
        (3**2, 0, 2),
    ),
    Case(
        "phi",
        transformers("PhiModel", "PhiConfig", **{**SMALL, "hidden_act": "gelu"}, **TOKENS),
        tokens(use_cache=False),
        add(2),
        (3**2, 0, 2),
    ),
    # The two branches are added to each other, dropped out, and then added to the shortcut.
    Case(
        "falcon",
        transformers(
            "FalconModel",
            "FalconConfig",
            vocab_size=99,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            **TOKENS,
        ),
        tokens(use_cache=False),
        add(2),
        (3**2, 0, 2),
        fusions=2,
    ),
    # One gate in each MLP. The last norm stands on every path, and each branch begins with one.
    Case(
        "llama",
        transformers("LlamaForCausalLM", "LlamaConfig", **GROUPED),
        tokens(use_cache=False),
        add(4),
        residual(4, 1, 2),
        gates=2,
    ),
    Case(
        "mistral",
        transformers("MistralModel", "MistralConfig", **GROUPED, sliding_window=4),
        tokens(use_cache=False),
        add(4),
        residual(4, 1, 2),
        gates=2,
    ),
    Case(
        "qwen2",
        transformers("Qwen2Model", "Qwen2Config", **GROUPED),
        tokens(use_cache=False),
        add(4),
        residual(4, 1, 2),
        gates=2,
    ),
    Case(
        "gemma",
        transformers("GemmaModel", "GemmaConfig", **GROUPED, head_dim=8),
        tokens(use_cache=False),
        add(4),
        residual(4, 1, 2),
        gates=2,
    ),
    # A norm at the branch's end too.
    Case(
        "gemma2",
        transformers("Gemma2Model", "Gemma2Config", **GROUPED, head_dim=8),
        tokens(use_cache=False),
        add(4),
        residual(4, 1, 3),
        gates=2,
    ),
    # Norms at the branches' ends alone, and of query and key.
    Case(
        "olmo2",
        transformers("Olmo2Model", "Olmo2Config", **GROUPED, **TOKENS),
        tokens(use_cache=False),
        add(4),
        residual(4, 1, 2),
        gates=2,
    ),
    # Attention and a gated MLP in parallel.
    Case(
        "cohere",
        transformers("CohereModel", "CohereConfig", **GROUPED, **TOKENS),
        tokens(use_cache=False),
        add(2),
        gates=2,
    ),
    # One half of a layer's result gates the other.
    Case(
        "phi3",
        transformers("Phi3Model", "Phi3Config", **GROUPED, **TOKENS),
        tokens(use_cache=False),
        add(4),
        residual(4, 1, 2),
        gates=2,
    ),
    # The chosen experts' gated MLPs, weighted by the router.
    Case(
        "mixtral",
        transformers(
            "MixtralModel",
            "MixtralConfig",
            **GROUPED,
            num_local_experts=4,
            num_experts_per_tok=2,
            experts_implementation="batched_mm",
        ),
        tokens(use_cache=False),
        add(4),
        gates=2 * (1 + 1),
    ),
    # A layer has one skip, and its input, convolved, goes round the scan, scaled by D. The scan carries the state from
    # each of 8 tokens to the next; there is none before the first. Step sizes weight B, and z the result.
    Case(
        "mamba",
        transformers(
            "MambaModel",
            "MambaConfig",
            vocab_size=99,
            hidden_size=8,
            state_size=4,
            num_hidden_layers=2,
            expand=2,
            conv_kernel=2,
            time_step_rank=2,
            **TOKENS,
        ),
        tokens(use_cache=False),
        {**add(2, resample=2), **gated(2 * (8 - 1))},
        gates=2 * 2,
    ),
    # Numerator and denominator of a moving average, carried from each of 8 tokens to the next but one from an empty
    # state and one that nobody reads.
    Case(
        "rwkv",
        transformers(
            "RwkvModel",
            "RwkvConfig",
            vocab_size=99,
            hidden_size=8,
            num_hidden_layers=2,
            context_length=8,
            rescale_every=0,
            **TOKENS,
        ),
        tokens(use_cache=False),
        {**add(4), **gated(2 * 2 * (8 - 2))},
        gates=None,
        fusions=None,
    ),
    # Two skips in an encoder's layer, three in a decoder's.
    Case(
        "t5",
        transformers(
            "T5ForConditionalGeneration",
            "T5Config",
            vocab_size=99,
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
        ),
        translation,
        add(2 * 2 + 2 * 3),
    ),
    Case("bart", transformers("BartModel", "BartConfig", **BOTH), translation, add(2 * 2 + 2 * 3)),
    Case(
        "whisper",
        transformers(
            "WhisperModel", "WhisperConfig", **BOTH, num_mel_bins=4, max_source_positions=8, max_target_positions=32
        ),
        lambda: ((torch.randn(2, 4, 16),), {"decoder_input_ids": tokens()()[0][0], "use_cache": False}),
        add(2 * 2 + 2 * 3),
    ),
    # Position comes from a convolution of what it is added to.
    Case(
        "wav2vec2",
        transformers(
            "Wav2Vec2Model",
            "Wav2Vec2Config",
            **{k: v for k, v in SMALL.items() if k != "max_position_embeddings"},
            conv_dim=(8, 8),
            conv_stride=(2, 2),
            conv_kernel=(3, 3),
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            layerdrop=0.0,
        ),
        floats((2, 64)),
        add(1 + 4),
        (2**5, 2, 2 + 1 + 4),
    ),
    Case("vit", transformers("ViTModel", "ViTConfig", **VISION), images(32), add(4), residual(4, 0, 1)),
    Case(
        "dinov2",
        transformers("Dinov2Model", "Dinov2Config", **{**VISION, "mlp_ratio": 2}),
        images(32),
        add(4),
        residual(4, 0, 1),
    ),
    Case(
        "swin",
        transformers(
            "SwinModel",
            "SwinConfig",
            image_size=32,
            patch_size=4,
            embed_dim=8,
            depths=[1, 1],
            num_heads=[1, 2],
            window_size=4,
        ),
        images(32),
        add(4),
        residual(4, 0, 1),
    ),
    Case(
        "convnext",
        transformers("ConvNextModel", "ConvNextConfig", hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
        images(32),
        add(2),
        residual(2, 0, 1),
    ),
    # One block in each of four stages, all of which the head joins: the last has a layer less than those that it reads
    # the others through.
    Case(
        "segformer",
        segformer,
        images(64),
        {**add(2 * 4), "concat/projection": 3},
        (4 + 4**2 + 4**3 + 4**4, 1, 1 + 2 * 4),
    ),
    # ResNet of two blocks, of which one projects. The decoder's queries are parameters: in its first layer only the
    # MLP's sum has a shortcut that carries data.
    Case("detr", detr, images(32), add(1 + 2 * 2 + 1 + 3, 1)),
    # Two towers, whose pooled and normalised outputs are multiplied.
    Case(
        "clip",
        clip,
        lambda: ((), {"input_ids": tokens()()[0][0], "pixel_values": torch.randn(2, 3, 32, 32)}),
        add(4 + 4),
        (2**4 + 2**4, 1 + 1, 1 + 1 + 4),
    ),
]
