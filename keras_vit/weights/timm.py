"""Checkpoints of timm, and those of DeiT and DINOv2, which use the same names."""

import collections
import functools
import math
import os
import re
from typing import Any

from keras_vit.layers.resnet import ResNetStem
from keras_vit.weights import parallel_blocks
from keras_vit.weights.pieces import TorchPieces, add_stem, add_vit
from keras_vit.weights.published_pixels import pixels_of_timm
from keras_vit.weights.source import Source
from keras_vit.weights.timm_architectures import (
    find_architecture,
    heads_of_size,
    similar_architectures,
)
from keras_vit.weights.timm_config import labels, preprocessing, read_config
from keras_vit.weights.timm_network import (
    BIAS_TABLE,
    POOLINGS,
    SCALES,
    SHARED,
    TimmNetwork,
    unsupported,
)

# Number of attention heads by width of the networks that are downloaded by name, and of
# those of transformers.
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}

# Names of the kernel of the first convolution: in a stem without and with stages.
ROOTS = "patch_embed.backbone.conv.weight", "patch_embed.backbone.stem.conv.weight"
_UNIT = re.compile(r"patch_embed\.backbone\.stages\.(\d+)\.blocks\.(\d+)\.conv1\.weight")
_STEM = {
    "unit": "patch_embed.backbone.stages.{}.blocks.{}.".format,
    **{f"conv_{i}": f"conv{i}" for i in (1, 2, 3)},
    **{f"norm_{i}": f"norm{i}" for i in (1, 2, 3)},
    "projection": "downsample.conv",
    "projection_norm": "downsample.norm",
}
# Tensors that only training uses: those of DINOv2's masks and of MAE's decoder.
_TRAINING = re.compile(r"mask_token|decoder_(embed|pos_embed|blocks|norm|pred)(\..*)?")
# Tensor names in the original files of DeiT III and DINOv2, with those of timm.
_RENAMED = {
    # DINOv2 groups blocks in chunks, for training on many devices.
    r"^blocks\.\d+\.(\d+)\.": r"blocks.\1.",
    **{rf"\.{own}$": f".{name}" for name, own in SCALES.items()},
    r"^register_tokens$": "reg_token",
    # The gated MLP of DINOv2's ViT-g.
    r"\.mlp\.w12\.": ".mlp.fc1.",
    r"\.mlp\.w3\.": ".mlp.fc2.",
}
# Number of attention heads if timm's code does not state it.
_DEFAULT_HEADS = 12


class TimmSource(Source):
    """Checkpoint source for `.safetensors` and `.pth` files with timm's tensor names.

    Some architectures have exactly the same tensors as another one, so the tensors do not
    always determine the network. A `config.json` beside the file, as on the Hugging Face
    Hub, names the architecture. Without it, the caller must name the architecture or pass
    the arguments that differ; otherwise an ambiguous file raises an error.

    Without `config.json`, the architecture, the name of the file or tensors that only
    some networks have determine the preprocessing, or else it is unknown.

    Args:
        file: the opened file.
        architecture: str, timm's name for the network, which replaces the one in
            `config.json`, or None.

    Raises:
        ValueError: if keras_vit does not know the network.
    """

    kind = "timm ViT"
    # Kind of the network, see `Architecture`, where the tensors alone determine it.
    network_kind = "vit"
    head_names = ("head.", "head_dist.")
    published_heads = HEADS
    resize = "bicubic_antialias"

    def __init__(self, file, architecture=None):
        if parallel_blocks.SIGN in file.shapes:
            file = parallel_blocks.ParallelBlocks(file)
        super().__init__(file)
        self._stored: dict[str, str] = {}
        self._parts: dict[str, tuple[int, int]] = {}
        self.shapes = {}
        for stored, shape in file.shapes.items():
            if _TRAINING.fullmatch(stored):
                continue
            name = stored
            for pattern, replacement in _RENAMED.items():
                name = re.sub(pattern, replacement, name)
            if name in self.shapes:
                raise ValueError(
                    f"{self._stored[name]} and {stored} in {file.path} are the same "
                    "tensor under two names; delete one of them."
                )
            self.shapes[name] = shape
            self._stored[name] = stored
        self._stem = self._infer_stem()
        self.stem_stride = 1 if self._stem is None else self._stem.strides
        self._config = read_config(self.path)
        self.config_name = self._config.get("config_name", "config.json")
        self._arguments = self._config.get("model_args") or {}
        self._published = self._config.get("pretrained_cfg") or {}
        self._given = architecture
        self._architecture = self._find_architecture(architecture)
        self._network = self._make_network()
        self.possible: dict[str, tuple] = {"representation_size": (None,)}
        size = self._arguments.get("img_size")
        if size is None and "input_size" in self._published:
            size = self._published["input_size"][1:]
        if size is not None:
            height, width = (size, size) if isinstance(size, int) else size
            self.image_size = (height, width)

    def _make_network(self):
        """Return the structure of the network, and set what the architecture states."""
        if self._architecture is None:
            network = TimmNetwork(self.shapes, self.network_kind, {})
            self._split_shared(network)
            return network
        kind, defaults = self._architecture
        given = {k: v for k, v in self._arguments.items() if v is not None}
        usual = defaults.get("norm_eps", 1e-6)
        if "norm_layer" in given:  # It replaces the default's epsilon, too.
            defaults = {k: v for k, v in defaults.items() if k != "norm_eps"}
        arguments = self._plain_arguments({**defaults, **given})
        pooling = self._config.get("global_pool")
        other = unsupported(arguments) + self._other_epsilon(usual, given)
        if pooling is not None and pooling not in POOLINGS:
            other.append(f"global_pool={pooling!r}")
        if other:
            raise self._other_network(other)
        network = TimmNetwork(self.shapes, kind, arguments)
        wrong = network.contradictions()
        if "naflex" in {kind, self.network_kind} and kind != self.network_kind:
            wrong.append(f"the tensors of a network of kind {kind!r}")
        if wrong:
            raise ValueError(
                f"The tensors of {self.path} are not those of the network that its "
                f"{self.config_name} or architecture= names, which has "
                f"{', '.join(wrong)}. Name the network that the file was saved from."
            )
        self._split_shared(network)
        self.num_heads = arguments.get("num_heads", _DEFAULT_HEADS)
        self.activation = network.activation
        self.layer_norm_epsilon = network.layer_norm_epsilon
        return network

    def _other_epsilon(self, usual, given):
        """Return the argument that gives the norm of the patches another epsilon."""
        stated = [n for n in ("norm_layer", "embed_norm_layer") if n in given]
        if "patch_embed.norm.weight" not in self.shapes or len(stated) != 1:
            return []
        # A norm that is stated has timm's epsilon, and the other one that of the network.
        return [f"{stated[0]}={given[stated[0]]!r}"] if usual != 1e-6 else []

    def _plain_arguments(self, arguments):
        """Return timm's arguments of `VisionTransformer` for those of the network."""
        return arguments

    def _split_shared(self, network):
        """Replace tensors of all blocks by one tensor for each block."""
        for shared, (own, axis) in SHARED.items():
            if shared not in self.shapes:
                continue
            shape = list(self.shapes.pop(shared))
            if axis is not None:
                del shape[axis]
            for index in range(network.num_layers):
                name = f"blocks.{index}.{own}"
                self.shapes[name] = tuple(shape)
                self._stored[name] = shared
                if axis is not None:
                    self._parts[name] = (axis, index)

    def _infer_stem(self):
        """Return the ResNet stem that the tensors show, or None."""
        self._root = next((root for root in ROOTS if root in self.shapes), None)
        if self._root is None:
            return None
        units = collections.Counter(
            int(found[1]) for name in self.shapes if (found := _UNIT.fullmatch(name))
        )
        num_blocks = tuple(units.get(stage, 0) for stage in range(len(units)))
        width = self.shapes[self._root][0]
        return ResNetStem(num_blocks, width, epsilons="timm", name="stem")

    def _find_architecture(self, given):
        """Look up the architecture by the caller's name or the one in config.json.

        Args:
            given: str, the caller's name for the architecture, or None.

        Returns:
            An `Architecture`, or None if neither the caller nor config.json names one.
        """
        name = given or self._config.get("architecture")
        if not name:
            return None
        found = find_architecture(name)
        if found is not None:
            return found
        if given is not None:
            raise ValueError(
                f"architecture={given!r} is not one of timm's that keras_vit knows. The "
                f"closest of these: {similar_architectures(given)}."
            )
        raise self._other_network([f"architecture {name!r}"])

    def _other_network(self, what):
        source = f"The {self.config_name} beside {self.path}"
        if self._given is not None:
            beside = (
                f" with the {self.config_name} beside {self.path}" if self._config else ""
            )
            source = f"architecture={self._given!r}{beside}"
        return ValueError(
            f"{source} describes a network that keras_vit does not have, or does not "
            f"know ({', '.join(what)}). Its tensors might load but give other outputs. "
            "If it computes exactly the same as another architecture of timm, pass the "
            "name of that one: architecture=..."
        )

    @functools.cached_property
    def preprocessing(self):
        """Arguments of `Preprocessor` equivalent to timm's evaluation preprocessing."""
        if not any(value is not None for value in self._published.values()):
            name = self._given or self._config.get("architecture")
            return pixels_of_timm(self.path, name, self.file.shapes) or {}
        settings, other = preprocessing(self._published)
        if other:
            path = os.path.join(os.path.dirname(self.path), self.config_name)
            raise self.not_honored(path, other)
        return settings

    def _labels(self):
        return labels(self._config)

    def read(self, read, name):
        array = read(self._stored[name])
        if name in self._parts:
            axis, index = self._parts[name]
            array = array.take(index, axis)
        return array

    def check(self):
        for name in self.shapes:
            if name.endswith("running_mean"):
                raise ValueError(
                    f"{self.path} has batch normalization before the blocks ({name}), "
                    "which keras_vit does not have."
                )
        qkv, _, expand = self._network.projections()
        self.check_ranks(
            {
                "patch_embed.proj.weight": 4,
                f"blocks.0.{qkv}.weight": 2,
                f"blocks.0.{expand}.weight": 2,
                "blocks.0.mlp.fc2.weight": 2,
            },
            {"pos_embed": 3, "head.bias": 1, "reg_token": 3},
        )
        shapes = self.shapes
        if "dist_token" in shapes and ("reg_token" in shapes or "fc_norm.bias" in shapes):
            raise ValueError(
                f"{self.path} has a distillation token beside "
                f"{'reg_token' if 'reg_token' in shapes else 'fc_norm'}, which timm's "
                "distilled networks store and do not use: keras_vit has no such network."
            )

    def _check_shown(self, overrides, has_rows):
        """Raise a `ValueError` if another network has the same tensors.

        Args:
            overrides: dict of arguments that the caller passes, which may determine the
                network.
            has_rows: bool, whether prefix tokens have rows in the table of position
                embeddings.
        """
        if self._architecture is not None:
            return
        if not self._network.is_plain():
            self._ask(
                overrides,
                "architecture",
                "the epsilon, the activation and the positions of such a network",
            )
        if self.published:
            return
        shapes = self.shapes
        bare = "cls_token" not in shapes and "blocks.0.ls1.gamma" not in shapes
        has_bias = "blocks.0.attn.qkv.bias" in shapes
        after = "fc_norm.bias" in shapes
        if "cls_token" in shapes and not has_rows and "reg_token" not in shapes:
            self._ask(
                overrides,
                "positions",
                "whether it has only learned positions (DeiT III) or rotary ones too "
                "(vit_*_rope_ape_224)",
                "positions='learned' if it has only learned ones",
            )
        if "attn_pool.latent" in shapes and "reg_token" in shapes:
            self._ask(
                overrides,
                "pooling",
                "whether it pools over its registers",
                "pooling='map' if it pools over the patches alone",
            )
        if bare and not has_bias and after:
            self._ask(
                overrides,
                "architecture",
                "whether its norms come before the branches of a block or after them "
                "(vit_base_patch16_rpn_224)",
            )
        if bare and has_bias and not after:
            self._ask(
                overrides,
                "activation",
                "which GELU it has (those of SigLIP differ)",
                "activation='gelu' or 'gelu_tanh'",
            )

    def _ask(self, overrides, argument, question, answer=None):
        """Raise a `ValueError` that asks for an argument unless the caller passes it."""
        if overrides.get(argument) is None:
            raise ValueError(
                f"No tensor in {self.path} shows {question}. Pass "
                f"{f'{answer}, or ' if answer else ''}architecture=... with timm's name "
                "for the network; or put timm's config.json beside the file."
            )

    def _num_heads(self, overrides, width):
        """Return the number of attention heads, from the size if nothing states it."""
        if overrides.get("num_heads") or self.num_heads or self.published:
            return self.heads(overrides, width)
        depth = self._network.num_layers
        mlp_dim = self.shapes["blocks.0.mlp.fc2.weight"][1]
        signs = ("cls_token", "fc_norm.weight", "attn_pool.latent")
        traits = tuple(sign in self.shapes for sign in signs)
        is_plain = self._network.is_plain()
        found = heads_of_size((width, depth, mlp_dim), traits) if is_plain else []
        if len(found) != 1:
            numbers = " or ".join(map(str, found)) or "an unknown number"
            raise ValueError(
                f"No tensor in {self.path} shows the number of attention heads, and no "
                f"config.json beside it states it. Networks like this one, of {depth} "
                f"blocks of width {width} with MLPs of width {mlp_dim}, have {numbers}. "
                "Pass num_heads=... or architecture=... (timm's name for the network)."
            )
        return found[0]

    def _check_grid(self, overrides):
        """Raise a `ValueError` if config.json contradicts the position embeddings."""
        if self.image_size is None or overrides.get("source_grid_shape") is not None:
            return
        patch, channels = self.patches()
        patch *= self.stem_stride
        if "input_shape" not in overrides and any(s % patch for s in self.image_size):
            height, width = (side // patch * patch for side in self.image_size)
            raise ValueError(
                f"The {self.config_name} beside {self.path} says that images have "
                f"{self.image_size[0]}x{self.image_size[1]} pixels, which patches of "
                f"{patch}x{patch} do not divide; timm ignores the rest. Pass "
                f"input_shape={(height, width, channels)}."
            )
        rows = self.num_position_rows()
        sizes = [self.image_size, overrides.get("input_shape", (0, 0))[:2]]
        grids = {(height // patch) * (width // patch) for height, width in sizes}
        if not grids & {rows - prefix for prefix in self.position_prefixes()}:
            height, width = self.image_size
            raise ValueError(
                f"The {self.config_name} beside {self.path} says that images have "
                f"{height}x{width} pixels, a grid of {height // patch}x{width // patch} "
                f"patches, but the table of positions has {rows} rows. Pass "
                "source_grid_shape=(rows, columns), the grid that it is for."
            )

    def infer_config(self, overrides):
        shapes = self.shapes
        width = shapes["patch_embed.proj.weight"][0]
        num_heads = self._num_heads(overrides, width)
        config: dict[str, Any] = {
            "patch_size": shapes["patch_embed.proj.weight"][2],
            "hidden_dim": width,
            "num_heads": num_heads,
            "class_token": "cls_token" in shapes,
            "distillation_token": "dist_token" in shapes,
            "registers": shapes["reg_token"][1] if "reg_token" in shapes else 0,
            **self._network.config(num_heads, self._pooling(overrides)),
        }
        if self._stem is not None:
            config["stem"] = self._stem
        if "head.bias" in shapes:
            config["classes"] = shapes["head.bias"][0]
            if self._config.get("is_projection"):
                config["classifier_activation"] = None
        else:
            config["include_top"] = False
        if "pos_embed" in shapes:
            self._check_grid(overrides)
            config |= self.square_input_shape(overrides)
        elif self.image_size is not None:
            config["input_shape"] = (*self.image_size, self.patches()[1])
        elif (grid := self.table_grid()) is not None:
            patch, channels = self.patches()
            config["input_shape"] = (grid[0] * patch, grid[1] * patch, channels)
        self._check_shown(overrides, config.get("class_token_position", False))
        return config

    def _pooling(self, overrides):
        stated = [part.get("global_pool") for part in (self._config, self._arguments)]
        poolings = [pooling for pooling in stated if pooling is not None]
        if len(set(poolings)) > 1 and overrides.get("pooling") is None:
            raise ValueError(
                f"The {self.config_name} beside {self.path} has global_pool="
                f"{poolings[0]!r}, and {poolings[1]!r} in its model_args. Pass the right "
                "one as pooling='token', 'gap' or 'map'."
            )
        pooling = poolings[0] if poolings else None
        if pooling is None:
            pooling = self._network.arguments.get("global_pool")
        if pooling == "" and "head.bias" in self.shapes:
            raise self._other_network(["global_pool='' with a head"])
        if pooling is not None:
            return POOLINGS[pooling]
        if "attn_pool.latent" in self.shapes:
            return "map"
        token = "cls_token" in self.shapes and "fc_norm.weight" not in self.shapes
        return "token" if token else "gap"

    def patches(self):
        *_, patch = self.shapes["patch_embed.proj.weight"]
        _, channels, *_ = self.shapes[self._root or "patch_embed.proj.weight"]
        return patch, channels

    def num_position_rows(self):
        return self.shapes["pos_embed"][1] if "pos_embed" in self.shapes else None

    def table_grid(self):
        table = self.shapes.get(f"blocks.0.attn.{BIAS_TABLE}")
        if table is None:
            return None
        prefix = 3 if "cls_token" in self.shapes else 0
        side = math.isqrt(table[0] - prefix)
        if side * side == table[0] - prefix:
            return (side + 1) // 2, (side + 1) // 2
        patch, _ = self.patches()
        if self.image_size is None:
            return None
        return self.image_size[0] // patch, self.image_size[1] // patch

    def _check_config(self, config):
        # The structure follows from the file: a model with another one would have other
        # outputs, even where its tensors have the same names and shapes.
        network = self._network.config(config["num_heads"], None)
        parts = ("norm", "mlp", "attention", "block", "embedding_norm", "final_norm")
        self.possible |= {part: (network[part],) for part in parts}
        positions = network["positions"]
        fixed = ("sincos_2d",) if positions == "none" else ()
        self.possible["positions"] = (positions, *fixed)
        super()._check_config(config)

    def position_prefixes(self):
        tokens = ("cls_token" in self.shapes) + ("dist_token" in self.shapes)
        registers = self.shapes["reg_token"][1] if "reg_token" in self.shapes else 0
        # The table has rows for all prefix tokens, for all except the registers (DINOv2),
        # or for none of them (`no_embed_class`).
        return tokens + registers, tokens, 0

    def pieces(self, config):
        return network_pieces(self._network.names(), config, self._root)


def network_pieces(
    names: dict[str, Any], config: dict[str, Any], root: str | None = None
) -> TorchPieces:
    """Return the tensors of a network under timm's names.

    Args:
        names: dict, as `keras_vit.weights.timm_network.tensor_names` returns it.
        config: dict, as for `Source.pieces`.
        root: name of the kernel of the stem's first convolution, or None for the usual
            name.
    """
    pieces = TorchPieces()
    if config["stem"] is not None:
        root = (root or ROOTS[True]).removesuffix(".weight")
        norm = f"{root.removesuffix('conv')}norm"
        stem = {"root": root, "root_norm": norm, **_STEM}
        config = add_stem(pieces, stem, config, "timm")
    add_vit(pieces, names, "blocks.{}.".format, config)
    if config["include_top"]:
        d, classes = config["hidden_dim"], config["classes"]
        pieces.dense("head", "classifier", d, classes)
        if config["distillation_token"]:
            pieces.dense("head_dist", "distillation_classifier", d, classes)
    return pieces
