"""Big Transfer's checkpoints: Google's `.npz` files, and those of timm."""

import functools
import re
from typing import Any

from keras_vit.weights.checks import announce_zeros, check_values
from keras_vit.weights.patch_kernels import adapt_channels
from keras_vit.weights.pieces import Pieces, TorchPieces
from keras_vit.weights.source import Source
from keras_vit.weights.timm_config import labels, preprocessing, read_config

_GOOGLE_PREFIX = "resnet/"
# A tensor by which each layout is recognized.
GOOGLE_SIGN = "resnet/root_block/standardized_conv2d/kernel"
TIMM_SIGN = "stages.0.blocks.0.conv3.weight"
_STD_CONV = "standardized_conv2d"
# Arguments of timm's networks that the tensors show, or that matter in training only.
_WITHOUT_EFFECT = {
    *("num_classes", "in_chans", "img_size", "layers", "width_factor", "channels"),
    *("drop_rate", "drop_path_rate", "zero_init_last"),
}
# The values of others that keras_vit has.
_USUAL = {
    "output_stride": (32,),
    "act_layer": ("relu",),
    "stem_type": ("fixed",),
    "preact": (True,),
    "avg_down": (False,),
    "global_pool": ("avg", "fast", "fastavg", ""),
}


class _GooglePieces(Pieces):
    leaves = ("/kernel", "/bias", "/gamma", "/beta")


class BigTransferSource(Source):
    """Checkpoint source for Big Transfer's ResNets.

    Args:
        file: the opened file.
    """

    kind = "Big Transfer"
    has_default_pixels = True
    epsilons = "bit"
    # Names of the first convolution, the last norm and the classifier.
    names = (f"root_block/{_STD_CONV}", "group_norm", "head/conv2d")
    head_names = ("head/conv2d",)
    # Names of the layers of a unit.
    unit_names = {  # noqa: RUF012
        **{f"conv_{i}": f"{part}/{_STD_CONV}" for i, part in enumerate("abc", 1)},
        **{f"norm_{i}": f"{part}/group_norm" for i, part in enumerate("abc", 1)},
        "projection": f"a/proj/{_STD_CONV}",
    }
    _unit = re.compile(r"block(\d+)/unit(\d+)/a/standardized_conv2d/kernel")
    _layout: type[Pieces] = _GooglePieces

    def __init__(self, file):
        super().__init__(file)
        self._stored = {name.removeprefix(_GOOGLE_PREFIX): name for name in file.shapes}
        self.shapes = {name: file.shapes[stored] for name, stored in self._stored.items()}

    def unit_name(self, stage: int, unit: int) -> str:
        """Return the prefix of the names of a unit."""
        return f"block{stage + 1}/unit{unit + 1:02d}/"

    def _shape(self, name):
        """Return the shape `(h, w, in, out)` of a convolution."""
        return self.shapes[f"{name}/kernel"]

    def check(self):
        self.check_ranks({f"{self.names[0]}{self._layout.leaves[0]}": 4}, {})

    def num_position_rows(self):
        return None

    def infer_config(self, overrides):
        counts: dict[int, int] = {}
        for name in self.shapes:
            if found := self._unit.fullmatch(name):
                counts[int(found[1])] = counts.get(int(found[1]), 0) + 1
        last = self.unit_names["conv_3"]
        root = self._shape(self.names[0])
        config: dict[str, Any] = {
            "num_blocks": tuple(counts[stage] for stage in sorted(counts)),
            "channels": tuple(
                self._shape(self.unit_name(stage, 0) + last)[3]
                for stage in range(len(counts))
            ),
            "stem_channels": root[3],
            "epsilons": self.epsilons,
        }
        head = self.names[2] + self._layout.leaves[1]
        if head in self.shapes:
            config["classes"] = self.shapes[head][0]
        else:
            config["include_top"] = False
        height, width = self.image_size or (224, 224)
        return {**config, "input_shape": (height, width, root[2])}

    def pieces(self, config):
        pieces, width = self._layout(), config["stem_channels"]
        root, norm, head = self.names
        pieces.conv(root, "root", (7, 7, config["input_shape"][2], width))
        stages = zip(config["num_blocks"], config["channels"], strict=True)
        for stage, (count, channels) in enumerate(stages):
            for unit in range(count):
                self._add_unit(pieces, stage, unit, width, channels)
                width = channels
        pieces.norm(norm, "norm", width)
        if config["include_top"]:
            self._add_head(pieces, head, width, config["classes"])
        return pieces

    def _add_unit(self, pieces, stage, unit, incoming, channels):
        prefix, path = self.unit_name(stage, unit), f"stage_{stage}_unit_{unit}"
        inner = channels // 4
        layers = {
            "norm_1": incoming,
            "conv_1": (1, 1, incoming, inner),
            "norm_2": inner,
            "conv_2": (3, 3, inner, inner),
            "norm_3": inner,
            "conv_3": (1, 1, inner, channels),
        }
        if unit == 0 and (stage or incoming != channels):
            layers["projection"] = (1, 1, incoming, channels)
        for layer, shape in layers.items():
            add = pieces.norm if layer.startswith("norm") else pieces.conv
            add(prefix + self.unit_names[layer], f"{path}/{layer}", shape)

    def _add_head(self, pieces, name, width, classes):
        """Add the classifier, which the files store as a 1x1 convolution."""
        kernel, bias = self._layout.leaves[:2]
        pieces.plain(
            name + kernel, "classifier/kernel", (1, 1, width, classes), (width, classes)
        )
        pieces.plain(name + bias, "classifier/bias", (classes,))

    def read(self, read, name):
        return read(self._stored[name])

    def values(
        self, config, head="keep", resize=None, source_grid_shape=None, check_finite=True
    ):
        if "num_blocks" not in config:
            raise ValueError(
                f"{self.path} is a checkpoint of Big Transfer: use keras_vit.BiT, or "
                "keras_vit.load_checkpoint, which builds the model that fits."
            )
        if config["epsilons"] != self.epsilons:
            raise ValueError(
                f"The model has epsilons={config['epsilons']!r}, but networks of the "
                f"format of {self.path} have {self.epsilons!r} and would give other "
                f"outputs: pass epsilons={self.epsilons!r}."
            )
        channels = self._shape(self.names[0])[2]
        sides = config["input_shape"][:2]
        pieces = self.pieces({**config, "input_shape": (*sides, channels)})
        pieces = self._matched(pieces, self.shapes, config, head)
        return self._arrays(pieces, channels, config["input_shape"][2], check_finite)

    def _arrays(self, pieces, channels, wanted_channels, check_finite):
        """Yield the path and the value of every weight."""
        with self.file.reader() as read:
            for piece in pieces:
                array = piece.read(functools.partial(self.read, read))
                if check_finite:
                    check_values(self.path, piece.names[0], array)
                if piece.path == "root/kernel" and channels != wanted_channels:
                    array = adapt_channels(array, wanted_channels)
                if piece.path == "classifier/kernel":
                    announce_zeros(self.path, array)
                yield piece.path, array


class TimmBigTransferSource(BigTransferSource):
    """Checkpoint source for timm's `resnetv2_*_bit` networks."""

    kind = "timm Big Transfer"
    epsilons = "timm"
    names = ("stem.conv", "norm", "head.fc")
    head_names = ("head.fc",)
    unit_names = {  # noqa: RUF012
        **{f"{kind}_{i}": f"{kind}{i}" for kind in ("conv", "norm") for i in (1, 2, 3)},
        "projection": "downsample.conv",
    }
    _unit = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.conv1\.weight")
    _layout = TorchPieces

    def __init__(self, file, architecture=None):
        super().__init__(file)
        config = read_config(self.path)
        name = architecture or config.get("architecture")
        if name and not re.fullmatch(r"resnetv2_\w+_bit(\..*)?", name):
            raise ValueError(
                f"{self.path} is a checkpoint of timm's {name}, which keras_vit does not "
                "have: of timm's ResNets it has those of Big Transfer, resnetv2_*_bit."
            )
        if other := _other_arguments(config):
            raise ValueError(
                f"{config.get('config_name', 'config.json')} beside {self.path} has "
                f"{', '.join(other)}: keras_vit's networks of Big Transfer have a total "
                "stride of 32 and average pooling."
            )
        self._config = config
        self._published = config.get("pretrained_cfg") or {}
        if size := self._published.get("input_size"):
            self.image_size = tuple(size[1:])

    @functools.cached_property
    def preprocessing(self):
        settings, other = preprocessing(self._published)
        if other:
            raise self.not_honored(self.path, other)
        return settings

    def _labels(self):
        return labels(self._config)

    def unit_name(self, stage, unit):
        return f"stages.{stage}.blocks.{unit}."

    def _shape(self, name):
        o, i, h, w = self.shapes[f"{name}.weight"]
        return h, w, i, o

    def _add_head(self, pieces, name, width, classes):
        pieces.conv(name, "classifier", (1, 1, width, classes))
        kernel = pieces.pop()
        pieces.append(kernel._replace(stored_shape=(width, classes)))
        pieces.plain(f"{name}.bias", "classifier/bias", (classes,))


def _other_arguments(config):
    """Return the arguments of timm that make another network with the same tensors."""
    arguments = {**(config.get("model_args") or {})}
    poolings = config.get("global_pool"), arguments.pop("global_pool", None)
    return [
        f"{name}={value!r}"
        for name, value in [*arguments.items(), *(("global_pool", p) for p in poolings)]
        if not (value is None or name in _WITHOUT_EFFECT or value in _USUAL.get(name, ()))
    ]
