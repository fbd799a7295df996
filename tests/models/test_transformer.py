"""Layers and networks against torch's own modules and torchvision's with the same weights, and against formulas."""

from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.loading import example_inputs
from skiplab.models import Attention, transformer_decoder, transformer_encoder, vit, vit_b_16
from skiplab.models.sequence import sinusoids
from skiplab.models.transformer import DecoderLayer, Design, EncoderLayer, Stack

WIDTH, HEADS, HIDDEN = 12, 3, 20


def drawn(model: nn.Module) -> nn.Module:
    """With random norms and biases too, so that a mistake about one shows."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.4)
    return model


def design(placement: Any, **options: Any) -> Design:
    return Design(WIDTH, HEADS, HIDDEN, placement=placement, **options)


def theirs(kind: Any, design: Design) -> nn.Module:
    first = design.placement == "pre"
    options: dict[str, Any] = {"activation": design.activation, "batch_first": True, "norm_first": first}
    return drawn(kind(WIDTH, HEADS, HIDDEN, dropout=0.0, **options))


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def future(steps: int) -> Tensor:
    return nn.Transformer.generate_square_subsequent_mask(steps)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_encoder_layer_equals_torchs(placement: str, activation: str, causal: bool, train: bool) -> None:
    ours = EncoderLayer(design(placement, activation=activation, causal=causal))
    reference = theirs(nn.TransformerEncoderLayer, design(placement, activation=activation))
    ours.load_state_dict(reference.state_dict(), strict=True)
    x = torch.randn(2, 7, WIDTH)
    with torch.no_grad():
        expected = reference.train(train)(x, src_mask=future(7) if causal else None)
        close(ours.train(train)(x), expected)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_decoder_layer_equals_torchs(placement: str, activation: str, train: bool) -> None:
    ours = DecoderLayer(design(placement, activation=activation, causal=True))
    reference = theirs(nn.TransformerDecoderLayer, design(placement, activation=activation))
    ours.load_state_dict(reference.state_dict(), strict=True)
    x, memory = torch.randn(2, 7, WIDTH), torch.randn(2, 4, WIDTH)
    with torch.no_grad():
        close(ours.train(train)(x, memory), reference.train(train)(x, memory, tgt_mask=future(7)))


def test_stack_equals_torchs() -> None:
    ours = Stack(EncoderLayer, 3, design("pre", activation="relu"))
    layer = theirs(nn.TransformerEncoderLayer, design("pre", activation="relu"))
    reference = nn.TransformerEncoder(layer, 3, nn.LayerNorm(WIDTH), enable_nested_tensor=False)  # type: ignore[arg-type]
    ours.load_state_dict(drawn(reference).state_dict(), strict=True)
    x = torch.randn(2, 5, WIDTH)
    close(ours(x), reference(x), 1e-4)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("placement", ["pre", "post", "parallel"])
def test_placements_by_hand(placement: str, skip: bool) -> None:
    """As the papers' formulas read, with and without the shortcut, from the same weights."""
    layer = EncoderLayer(design("pre"))
    ours = EncoderLayer(design(placement, skip=skip))
    ours.load_state_dict(drawn(layer).state_dict(), strict=True)
    x, carried = torch.randn(2, 5, WIDTH), float(skip)
    attend, n1, n2 = layer.self_attn, layer.get_submodule("norm1"), layer.get_submodule("norm2")

    def mlp(x: Tensor) -> Tensor:
        return layer.linear2(F.gelu(layer.linear1(x)))

    if placement == "pre":
        y = carried * x + attend(n1(x))
        y = carried * y + mlp(n2(y))
    elif placement == "post":
        y = n1(carried * x + attend(x))
        y = n2(carried * y + mlp(y))
    else:
        y = carried * x + attend(n1(x)) + mlp(n2(x))
    close(ours(x), y)


@pytest.mark.parametrize("crossed", [True, False])
def test_attention_equals_torchs(crossed: bool) -> None:
    ours, reference = Attention(WIDTH, HEADS), drawn(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True))
    ours.load_state_dict(reference.state_dict(), strict=True)
    x, memory = torch.randn(2, 5, WIDTH), torch.randn(2, 3, WIDTH)
    answers = memory if crossed else x
    close(ours(x, memory if crossed else None), reference(x, answers, answers)[0])


def test_attention_starts_as_torchs() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        reference = nn.MultiheadAttention(WIDTH, HEADS)
        torch.manual_seed(3)
        ours = Attention(WIDTH, HEADS)
    bound = (6 / (4 * WIDTH)) ** 0.5
    assert 0.9 * bound < ours.in_proj_weight.abs().max() <= bound
    assert ours.state_dict().keys() == reference.state_dict().keys()
    assert not ours.in_proj_bias.any()
    assert not ours.out_proj.bias.any()


def test_dropout_acts_in_training_alone_and_on_the_attention_weights_too() -> None:
    attention, layer = Attention(WIDTH, HEADS, 0.5), EncoderLayer(design("pre", dropout=0.5))
    x = torch.randn(2, 5, WIDTH)
    for module in (attention, layer):
        assert not torch.equal(module(x), module(x))
        assert torch.equal(module.eval()(x), module(x))


def test_a_layers_copy_is_its_own() -> None:
    layer = EncoderLayer(design("pre"))
    x, before = torch.randn(1, 3, WIDTH), deepcopy(layer)
    expected = layer(x)
    nn.init.zeros_(layer.linear2.weight)
    layer.norm1 = nn.Identity()
    assert torch.equal(before(x), expected)
    assert not torch.equal(layer(x), expected)


def vision(placement: Any = "pre", skip: bool = True) -> nn.Module:
    return vit(
        img_size=16, patch=4, depth=2, width=12, heads=3, hidden=20, in_channels=3, placement=placement, skip=skip
    )


@pytest.mark.parametrize("train", [True, False])
def test_vit_equals_torchvisions(train: bool) -> None:
    library = pytest.importorskip("torchvision").models.vision_transformer
    reference = drawn(library.VisionTransformer(16, 4, 2, 3, 12, 20, num_classes=10)).train(train)
    ours = vision().train(train)
    ours.load_state_dict(reference.state_dict(), strict=True)
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        close(ours(x), reference(x))


def test_vit_b_16_has_torchvisions_names_and_shapes_in_its_order() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        models = vit_b_16(), torchvision.models.vit_b_16()
    ours, theirs = ({k: v.shape for k, v in model.state_dict().items()} for model in models)
    assert ours == theirs
    assert models[0].example_input_shape == (3, 224, 224)


def test_vit_starts_as_torchvisions_but_for_its_head() -> None:
    library = pytest.importorskip("torchvision").models.vision_transformer
    reference = library.VisionTransformer(32, 4, 1, 4, 128, 512, num_classes=10).state_dict()
    ours = vit(img_size=32, patch=4, depth=1, width=128, in_channels=3).state_dict()
    for name, value in reference.items():
        if not name.startswith("heads"):
            drawn, expected = (each.std(unbiased=False).item() for each in (ours[name], value))
            assert drawn == pytest.approx(expected, rel=0.4), name
    assert ours["heads.head.weight"].any()


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("build", [vision, lambda *a: transformer_encoder(2, placement=a[0], skip=a[1])])
def test_placements_have_the_same_parameters_but_for_the_last_norm(build: Any) -> None:
    counts = {(p, skip): parameters(build(p, skip)) for p in ("pre", "post", "parallel") for skip in (True, False)}
    width = {vision: 12}.get(build, 64)
    last = 2 * width
    assert {count + last * (placement == "post") for (placement, _), count in counts.items()} == {counts["pre", True]}


@given(st.integers(1, 9), st.integers(1, 9))
def test_sinusoids_are_the_papers(length: int, width: int) -> None:
    table = sinusoids(length, width)
    assert table.shape == (length, width)
    for position in range(length):
        for channel in range(width):
            angle = torch.tensor(position / 10000 ** (channel // 2 * 2 / width))
            expected = angle.cos() if channel % 2 else angle.sin()
            assert table[position, channel].item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_the_encoder_is_embedding_layers_and_readout(positions: Any) -> None:
    net = transformer_encoder(1, inputs=3, width=12, heads=3, positions=positions, num_classes=4)
    x = torch.randn(2, 5, 3)
    places = net.state_dict()["embed.positions"] if positions == "learned" else sinusoids(256, 12)
    embedded = net.embed.values(x) + places[:5]
    close(net(x), net.head.weight.matmul(net.layers(embedded).mean(1).T).T + net.head.bias)


def test_tokens_are_embedded() -> None:
    net = transformer_encoder(1, vocabulary=7, width=12, heads=3, readout="last", num_classes=4)
    x = torch.randint(0, 7, (2, 5))
    embedded = net.state_dict()["embed.values.weight"][x] + net.state_dict()["embed.positions"][:5]
    close(net(x), net.head(net.layers(embedded)))


def test_a_causal_networks_answers_do_not_know_what_comes_later() -> None:
    x, memory = torch.randn(1, 6, 2), torch.randn(1, 3, 12)
    changed = torch.cat((x[:, :4], torch.randn(1, 2, 2)), 1)
    for net, rest in (
        (transformer_encoder(2, inputs=2, width=12, heads=3, causal=True, readout="steps", num_classes=4), ()),
        (transformer_decoder(2, inputs=2, width=12, heads=3, num_classes=4), (memory,)),
    ):
        one, other = net(x, *rest), net(changed, *rest)
        assert one.shape == (1, 4, 6)
        close(one[..., :4], other[..., :4])
        assert not torch.allclose(one[..., 4:], other[..., 4:])


def test_the_decoder_knows_the_memory() -> None:
    net, x = transformer_decoder(1, width=12, heads=3), torch.randn(1, 4, 1)
    assert not torch.allclose(net(x, torch.randn(1, 3, 12)), net(x, torch.randn(1, 3, 12)))


@pytest.mark.parametrize("build", [transformer_encoder, transformer_decoder])
@pytest.mark.parametrize("vocabulary", [None, 5])
def test_networks_say_what_they_take(build: Any, vocabulary: int | None) -> None:
    net = build(1, vocabulary=vocabulary)
    args, kwargs = example_inputs.declared_inputs("ours", net)
    assert net(*args, **kwargs).shape == ((1, 10) if build is transformer_encoder else (1, 10, 8))
    assert args[0].shape[1:] == net.example_input_shape
    assert args[0].is_floating_point() == (vocabulary is None)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: transformer_encoder(0), "depth=0"),
        (lambda: vit(depth=0), "depth=0"),
        (lambda: transformer_encoder(width=10, heads=4), "heads=4 do not divide width=10"),
        (lambda: transformer_encoder(placement="mid"), r"placement='mid'.*parallel"),  # type: ignore[arg-type]
        (lambda: transformer_encoder(activation="tanh"), "activation='tanh'"),  # type: ignore[arg-type]
        (lambda: transformer_encoder(positions="none"), "positions='none'"),  # type: ignore[arg-type]
        (lambda: transformer_encoder(readout="first"), "readout='first'"),  # type: ignore[arg-type]
        (lambda: transformer_encoder(dropout=1.0), "dropout=1.0"),
        (lambda: transformer_encoder(hidden=0), "hidden=0"),
        (lambda: transformer_encoder(vocabulary=0), "vocabulary=0"),
        (lambda: transformer_encoder(norm="rms"), r"\['norm'\].*placement"),  # type: ignore[call-arg]
        (lambda: transformer_encoder(length=4)(torch.zeros(1, 5, 1)), "length=5"),
        (lambda: vit(patch=3), "patch=3 does not divide img_size=8"),
        (lambda: vit(num_classes=0), "num_classes=0"),
        (lambda: vit(skip=None), "skip=None"),  # type: ignore[arg-type]
        (lambda: transformer_encoder(causal="no"), "causal='no'"),  # type: ignore[arg-type]
        (lambda: vit(causal=True), r"\['causal'\]"),  # type: ignore[call-arg]
        (lambda: vit()(torch.zeros(1, 3, 8, 8)), r"\(3, 8, 8\).*\(1, 8, 8\)"),
    ],
)
def test_requests_that_make_no_sense(build: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()
