"""Example arguments for models of transformers, from the signature of `forward` and the configuration.

There is no table of models: the name of an argument determines its kind (token ids, image, audio, time series), the
configuration its size. If several shapes are possible, the model runs on fake tensors, and the first shape that works
is used.
"""

import inspect
import itertools
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from skiplab.errors import UsageError
from skiplab.graph.torch_compat import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from skiplab.loading.example_inputs import Inputs, generator, normal

TOKENS = 16  # sequence length
SAMPLES = 15360  # audio samples: about a second, divisible by most hop lengths
FRAMES = 400  # default number of spectrogram frames
MAX_COMBINATIONS = 24  # of shapes to try


def nested_configs(config: Any) -> list[Any]:
    """A configuration and all configurations in it, outer ones first."""
    found = [config]
    for each in found:  # the list grows during the loop
        found += [value for value in vars(each).values() if hasattr(value, "model_type")]
    return found


class ConfigNumbers:
    """Numbers in a configuration and the configurations in it, by any of their usual names."""

    def __init__(self, config: Any, required: list[str]) -> None:
        self.configs = nested_configs(config)
        self.padded = "spatial_shapes" in required  # images are sequences of patches, padded to one length
        self.patched = self.padded or any("grid" in name for name in required)

    def get(self, *names: str, default: int = 0) -> int:
        return next(self.all(*names), default)

    def all(self, *names: str) -> Iterator[int]:
        values = (value for name in names for value in self._values(name))
        yield from dict.fromkeys(value for value in values if type(value) is int and value > 0)

    def _values(self, name: str) -> Iterator[Any]:
        for config in self.configs:
            yield getattr(config, name, None)
            yield from (value.get(name) for value in vars(config).values() if isinstance(value, dict))

    def image(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels = self.get("num_channels", "in_channels", "in_chans", "num_image_channels", default=3)
        for size in (value for name in ("image_size", "img_size", "input_size") for value in self._values(name)):
            sides = list(size.values()) if isinstance(size, dict) else size
            sides = [sides, sides] if type(sides) is int else sides
            if isinstance(sides, (list, tuple)) and sides and all(type(side) is int for side in sides):
                return channels, sides[-2 % len(sides)], sides[-1]
        return channels, 224, 224

    def mels(self) -> list[int]:
        """Candidates for the number of mel bins of a spectrogram."""
        names = "num_mel_bins n_mels input_feat_per_channel feature_size input_feat_size feature_projection_input_dim"
        return list(dict.fromkeys([*self.all(*names.split()), 80, 128, *self.all("input_dim", "hidden_size")]))

    def history(self) -> int:
        """Past steps of a time series: the context and the longest lag."""
        lags = max((max(c.lags_sequence) for c in self.configs if getattr(c, "lags_sequence", None)), default=0)
        return self.get("context_length", default=64) + lags


def inputs_from_signature(name: str, model: nn.Module, config: Any) -> Inputs:
    """Keyword arguments for the model's `forward`.

    Raises:
        UsageError: `forward` requires an argument of unknown kind.
    """
    parameters = inspect.signature(model.forward).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    required = [p.name for p in parameters.values() if p.default is p.empty and p.kind in named]
    unknown = [each for each in required if each not in ARGUMENTS]
    advice = "write a function that returns (model, example inputs) and give file.py:function"
    if unknown:
        raise UsageError(
            f"{name}: no example value is known for {', '.join(unknown)} of {type(model).__name__}; {advice}"
        )
    numbers = ConfigNumbers(config, required)
    best: dict[str, Tensor] | None = None
    furthest = -1.0
    for names in _choices(model, config, list(parameters), required):
        made = [ARGUMENTS[each](numbers) for each in names]
        indices = sorted(itertools.product(*(range(len(values)) for values in made)), key=sum)
        for index in indices[:MAX_COMBINATIONS]:
            chosen = {each: values[i] for each, values, i in zip(names, made, index, strict=True)}
            progress = _progress(model, chosen)
            if progress > furthest:
                best, furthest = chosen, progress
            if progress == math.inf:
                return (), chosen
    if best is None:
        raise UsageError(f"{name}: no example inputs are known for {type(model).__name__}; {advice}")
    return (), best  # the error of the model is the best message


def _choices(model: Any, config: Any, takes: list[str], required: list[str]) -> Iterator[list[str]]:
    """Sets of argument names to try: as few as possible, then all with data, then masks too."""
    main = [model.main_input_name] if isinstance(model.main_input_name, str) else list(model.main_input_name)
    few = [name for name in takes if name in ARGUMENTS and (name in required or name in main)]
    if getattr(config, "is_encoder_decoder", False):
        few += [name for name in takes if name in ("decoder_input_ids", "decoder_input_values") and name not in few]
    data = [name for name in takes if name in ARGUMENTS and (name in few or name in DATA)]
    everything = [name for name in takes if name in ARGUMENTS and name not in OPTIONAL]
    around = [name for name in takes if name in few or name == "encoder_hidden_states"]
    seen: list[list[str]] = [[]]
    for choice in (few, data, everything, around):
        if choice not in seen:
            seen.append(choice)
            yield choice


def _progress(model: nn.Module, kwargs: dict[str, Tensor]) -> float:
    """Number of modules that start to run with these arguments; infinity if the whole model runs.

    The run uses fake tensors, so it computes only shapes, and the model is unchanged.
    """
    modes = {module: module.training for module in model.modules()}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    state, logger = torch.get_rng_state(), logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # shapes that do not fit are expected
    entered: list[None] = []
    counter = register_module_forward_pre_hook(lambda *_: entered.append(None))
    try:
        model.eval()
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode, device:
            model(**{name: mode.from_tensor(value.to(device)) for name, value in kwargs.items()})
    except (DataDependentOutputException, DynamicOutputShapeException):
        return len(entered) + 0.5  # shapes fit up to an op that needs values
    except Exception:
        return len(entered)
    finally:
        counter.remove()
        torch.set_rng_state(state)
        logger.setLevel(level)
        for module, training in modes.items():
            module.training = training
    return math.inf


def _ids(numbers: ConfigNumbers) -> list[Tensor]:
    """Token ids; or audio codes, one column per codebook, with or without a text column."""
    vocabulary = min(numbers.all("vocab_size"), default=100)
    books = [n for n in numbers.all("num_codebooks", "num_channels") if n > 4]  # fewer are image channels
    shapes = [(1, TOKENS), *((1, TOKENS, n + extra) for n in books for extra in (0, 1))]
    low, high = min(3, vocabulary - 1), max(4, min(100, vocabulary))
    return [torch.randint(low, high, shape, generator=generator()) for shape in shapes]


def _long(fill: int, *shape: int) -> Tensor:
    return torch.full(shape, fill, dtype=torch.long)


def _pixels(numbers: ConfigNumbers) -> list[Tensor]:
    """An image; a video; an image as rows of patches; a larger image."""
    channels, height, width = numbers.image()
    frames = numbers.get("num_frames", "frames_per_clip", default=2)
    patch = numbers.get("patch_size", default=14)
    rows = normal(_grid(numbers), channels * patch * patch * numbers.get("temporal_patch_size", default=1))
    large = normal(1, channels, 4 * patch, 4 * patch)
    images = [normal(1, channels, height, width), normal(1, frames, channels, height, width)]
    patches = [rows[None], rows] if numbers.padded else [rows, rows[None]]
    return [*patches, *images] if numbers.patched else [*images, *patches, large]


def _grid(numbers: ConfigNumbers) -> int:
    side = 2 * numbers.get("spatial_merge_size", "merge_size", default=2)
    return side * side


def _grid_sizes(numbers: ConfigNumbers) -> list[Tensor]:
    side = 2 * numbers.get("spatial_merge_size", "merge_size", default=2)
    return [torch.tensor([[1, side, side]]), torch.tensor([[side, side]])]


def _video(numbers: ConfigNumbers) -> list[Tensor]:
    return [_pixels(numbers)[1]]


def _spectrogram(numbers: ConfigNumbers) -> list[Tensor]:
    """Frames last, as in Whisper, or features last."""
    length = 2 * numbers.get("max_source_positions", default=FRAMES // 2)
    bins = numbers.mels()
    both = [normal(1, *shape) for mels in bins for shape in ((FRAMES, mels), (mels, FRAMES), (1, FRAMES, mels))]
    return [normal(1, bins[0], length), *both]


def _audio(numbers: ConfigNumbers) -> list[Tensor]:
    """Audio samples, audio samples per channel, or a spectrogram."""
    channels = numbers.get("audio_channels", "in_channels", default=1)
    frames = numbers.get("max_length", default=FRAMES)
    return [normal(1, SAMPLES), normal(1, channels, SAMPLES), *(normal(1, frames, mels) for mels in numbers.mels())]


def _series(numbers: ConfigNumbers) -> list[Tensor]:
    steps, channels = numbers.history(), numbers.get("num_input_channels", "input_size", default=1)
    return [normal(1, steps, channels), normal(1, steps)] if channels > 1 else [normal(1, steps), normal(1, steps, 1)]


def _future(numbers: ConfigNumbers) -> list[Tensor]:
    steps, channels = numbers.get("prediction_length", default=8), numbers.get("input_size", default=1)
    return [normal(1, steps)] if channels == 1 else [normal(1, steps, channels)]


def _hidden(numbers: ConfigNumbers) -> list[Tensor]:
    """Embeddings instead of tokens, as rows or as columns; image patches as rows."""
    widths = list(numbers.all("hidden_size", "d_model", "embed_dim", "n_embd", "dim", "audio_channels"))
    rows = [normal(1, TOKENS, width) for width in widths]
    return [*_pixels(numbers)[: 2 * numbers.patched], *rows, *(row.mT.contiguous() for row in rows)]


def _encoder_states(numbers: ConfigNumbers) -> list[Tensor]:
    """Hidden states of an encoder."""
    return [normal(1, TOKENS, width) for width in numbers.all("encoder_hidden_size", "hidden_size", "d_model")]


def _features(name: str) -> Callable[[ConfigNumbers], list[Tensor]]:
    def steps(numbers: ConfigNumbers) -> list[Tensor]:
        length = numbers.history() if name == "past" else numbers.get("prediction_length", default=8)
        return [normal(1, length, numbers.get("num_time_features", default=1))]

    return steps


def _states(*names: str) -> Callable[[ConfigNumbers], list[Tensor]]:
    return lambda numbers: [normal(1, TOKENS, numbers.get(*names, default=1))]


def _mask(_: ConfigNumbers) -> list[Tensor]:
    return [_long(1, 1, TOKENS)]


def _pixel_mask(numbers: ConfigNumbers) -> list[Tensor]:
    _, height, width = numbers.image()
    return [_long(1, 1, height, width)]


# Makes the values of an argument, by its name: one tensor per possible shape, the most likely first.
ARGUMENTS: dict[str, Callable[[ConfigNumbers], list[Tensor]]] = {
    **dict.fromkeys("input_ids decoder_input_ids qformer_input_ids task_inputs text_inputs".split(), _ids),
    **dict.fromkeys("pixel_values prompt_pixel_values image_pixel_values high_res_pixel_values".split(), _pixels),
    "pixel_values_videos": _video,
    **dict.fromkeys("input_features audio_mel audio_input_features".split(), _spectrogram),
    "input_values": _audio,
    "decoder_input_values": lambda numbers: [normal(1, TOKENS, mels) for mels in numbers.mels()],
    "past_values": _series,
    "past_observed_mask": lambda numbers: [torch.ones_like(each) for each in _series(numbers)],
    "observed_mask": lambda numbers: [torch.ones_like(each) for each in _series(numbers)],
    "past_values_padding": lambda numbers: [_long(0, 1, numbers.history())],
    "past_time_features": _features("past"),
    "future_time_features": _features("future"),
    "future_values": _future,
    "static_categorical_features": lambda n: [_long(0, 1, n.get("num_static_categorical_features"))],
    "static_real_features": lambda n: [normal(1, n.get("num_static_real_features"))],
    "freq": lambda _: [_long(0, 1, 1)],
    "states": _states("state_dim"),
    "actions": _states("act_dim"),
    "rewards": _states(),
    "returns_to_go": _states(),
    "timesteps": lambda _: [torch.arange(TOKENS).unsqueeze(0)],
    "bbox": lambda _: [_long(1, 1, TOKENS, 4)],
    **dict.fromkeys("hidden_states inputs_embeds noise_embeds context_hidden_states latents".split(), _hidden),
    **dict.fromkeys("query_embeds inputs".split(), _hidden),
    "encoder_hidden_states": _encoder_states,
    **dict.fromkeys("grid_thw image_grid_thw".split(), _grid_sizes),
    **dict.fromkeys("attention_mask token_type_ids decoder_attention_mask qformer_attention_mask".split(), _mask),
    **dict.fromkeys("input_features_mask audio_mel_mask".split(), lambda _: [torch.ones(1, FRAMES, dtype=torch.bool)]),
    "pixel_mask": _pixel_mask,
    "pixel_attention_mask": lambda n: [_long(1, 1, _grid(n))],
    "spatial_shapes": lambda n: _grid_sizes(n)[1:],
    "image_attention_mask": lambda n: [_long(1, 1, TOKENS, n.get("num_frames", default=2))],
    "prompt_masks": _pixels,
    "visual_feats": lambda n: [normal(1, TOKENS, n.get("visual_feat_dim", default=8))],
    "visual_pos": lambda n: [normal(1, TOKENS, n.get("visual_pos_dim", default=4))],
}
DATA = frozenset(
    "input_ids decoder_input_ids pixel_values pixel_values_videos input_features input_values decoder_input_values "
    "bbox states actions rewards returns_to_go timesteps past_values past_time_features past_observed_mask "
    "future_values future_time_features qformer_input_ids image_grid_thw visual_feats visual_pos attention_mask "
    "pixel_attention_mask spatial_shapes image_attention_mask".split()
)
# Given only if `forward` requires them.
OPTIONAL = frozenset("inputs_embeds hidden_states encoder_hidden_states decoder_attention_mask".split())
