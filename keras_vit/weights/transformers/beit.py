"""BEiT of transformers."""

import math

from keras_vit.weights.pieces import BIAS_TABLE
from keras_vit.weights.published_pixels import pixels
from keras_vit.weights.transformers.source import BlockNames, TransformersSource
from keras_vit.weights.transformers.vit import NEW_BLOCK, OLD_BLOCK, ViTSource

_TABLE = "relative_position_bias.relative_position_bias_table"
# Name of one table for all blocks, in transformers 4 and 5.
SHARED_TABLES = (f"encoder.{_TABLE}", "shared_position_bias.relative_position_bias_table")
_SCALES = {"attention_scale": "lambda_1", "mlp_scale": "lambda_2"}


def _with_tables(block, table):
    """Return ViT's names of a block with those of BEiT's own weights."""
    query, _, value = block.layers["attention/qkv"]
    own = {"attention/qkv/bias": (f"{query}.bias", None, f"{value}.bias")}
    return BlockNames(block.prefix, {**block.layers, **_SCALES, **own, BIAS_TABLE: table})


class BeitSource(TransformersSource):
    """Checkpoint source for `BeitModel` and `BeitForImageClassification`.

    The norm follows the mean of the grid tokens, or precedes the class token.
    """

    kind = "transformers BEiT"
    usual_pixels = pixels("inception", "bilinear_antialias")
    model_types = ("beit",)
    prefixes = ("beit.",)
    ignored = ("embeddings.mask_token",)
    pooler = None
    needs_positions = False
    is_square = True
    names = ViTSource.names
    blocks = (
        _with_tables(OLD_BLOCK, f"attention.attention.{_TABLE}"),
        _with_tables(NEW_BLOCK, _TABLE),
    )
    defaults = {  # noqa: RUF012
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "use_mask_token": False,
        "use_absolute_position_embeddings": False,
        "use_relative_position_bias": False,
        "use_shared_relative_position_bias": False,
        # This is the initial value; the trained values come from the file.
        "layer_scale_init_value": 0.1,
        "use_mean_pooling": True,
        **dict.fromkeys(
            (
                *("vocab_size", "pool_scales", "use_auxiliary_head", "add_fpn"),
                *("auxiliary_loss_weight", "auxiliary_channels", "auxiliary_num_convs"),
                *("auxiliary_concat_input", "semantic_loss_ignore_index"),
            )
        ),
    }
    possible = {  # noqa: RUF012
        **TransformersSource.possible,
        "positions": (
            *("none", "learned", "relative_bias"),
            ["learned", "relative_bias"],
        ),
        "final_norm": ("before_pooling", "after_pooling", None),
        "pooling": ("token", "gap", None),
    }

    def __init__(self, file, config, around):
        super().__init__(file, config, around)
        if any(name.startswith("lm_head.") for name in self.shapes):
            # The head that predicts masked patches has its own norm.
            head = ("lm_head.", "layernorm.")
            self.shapes = {n: x for n, x in self.shapes.items() if not n.startswith(head)}

    def _tables(self):
        """Return the names of the tables of the first block and of all blocks."""
        own = self._block_name(0) + self._block.layers[BIAS_TABLE]
        shared = (self._prefix + name for name in SHARED_TABLES)
        found = [name if name in self.shapes else None for name in (own, *shared)]
        return found[0], found[1] or found[2]

    def table_grid(self):
        own, shared = self._tables()
        name = own or shared
        if name is None:
            return None
        rows, _ = self.shapes[name]
        if self.image_size is not None:
            patch, _ = self.patches()
            gh, gw = (size // patch for size in self.image_size)
        else:
            gh = gw = (math.isqrt(rows - 3) + 1) // 2
        if rows != (2 * gh - 1) * (2 * gw - 1) + 3:
            raise ValueError(
                f"{name} in {self.path} has {rows} rows, which do not fit a grid of "
                f"{gh}x{gw} patches, the image_size in the config.json beside it."
            )
        return gh, gw

    def _own_config(self, config):
        own, shared = self._tables()
        if own and shared:
            raise self._other_network(["a shared table beside those of the blocks"])
        learned = self._shape("positions") is not None
        positions = ["learned"] * learned + ["relative_bias"] * bool(own or shared)
        before = f"{self._prefix}layernorm.weight" in self.shapes
        after = f"{self._prefix}pooler.layernorm.weight" in self.shapes
        norm = "before_pooling" if before else "after_pooling" if after else None
        return {
            "qkv_bias": "qv",
            "positions": positions[0] if len(positions) == 1 else positions or "none",
            "pooling": "token" if before else "gap",
            "final_norm": norm,
        }

    def infer_config(self, overrides):
        config = super().infer_config(overrides)
        if "input_shape" not in config and (grid := self.table_grid()) is not None:
            patch, channels = self.patches()
            config["input_shape"] = (grid[0] * patch, grid[1] * patch, channels)
        without_pooling = "pooling" in overrides and overrides["pooling"] is None
        if without_pooling and config["final_norm"] == "after_pooling":
            config["final_norm"] = None
        return config

    def _stated(self, config):
        own, shared = self._tables()
        return {
            **super()._stated(config),
            "use_absolute_position_embeddings": self._shape("positions") is not None,
            "use_relative_position_bias": own is not None,
            "use_shared_relative_position_bias": shared is not None,
            "use_mean_pooling": config["pooling"] == "gap",
        }

    def unused_names(self, config):
        after = config["final_norm"] == "after_pooling"
        return () if after else (f"{self._prefix}pooler.",)

    def pieces(self, config):
        _, shared = self._tables()
        return super().pieces({**config, "shared_table": shared})

    @classmethod
    def network_pieces(cls, config, prefix, block):
        """Return the tensors of a network; with a `shared_table`, one for all blocks."""
        pieces = super().network_pieces(config, prefix, block)
        if (shared := config.get("shared_table")) is None:
            return pieces
        return [
            piece._replace(names=(shared,)) if piece.path.endswith(BIAS_TABLE) else piece
            for piece in pieces
        ]

    @classmethod
    def layer_names(cls, config):
        after = config["final_norm"] == "after_pooling"
        return {**cls.names, "norm": "pooler.layernorm" if after else "layernorm"}
