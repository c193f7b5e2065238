"""Structure of timm's networks: arguments of `ViT` and names of tensors.

The tensors show most of the structure. The rest follows from the arguments that timm's
code gives to its models, which `timm_architectures.py` and timm's config.json have.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

from keras_vit.layers import (
    AttentionPooling,
    GatedMLP,
    GlobalAveragePooling,
    MixedRotaryPositions,
    RelativePositionBias,
    RelativePositionMLP,
    RotaryPositions,
    SelfAttention,
)
from keras_vit.layers.mlp import MLP

# Values of timm's `global_pool`; "" is a backbone that returns its tokens.
POOLINGS = {"token": "token", "avg": "gap", "map": "map", "": None}
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "gelu_erf": "gelu",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
}
# Name of the tables of relative positions in timm.
BIAS_TABLE = "relative_position_bias_table"
AXES = {"ij": "yx", "xy": "xy"}
NORMS = {"layernorm": "layer", "rmsnorm": "rms"}
_POST_NORM = ("ResPostBlock", "ResPostRelPosBlock")

# Tensors of all blocks, with their names after those of a block, and the axis of the
# blocks; without an axis, all blocks have the same values.
SHARED: dict[str, tuple[str, int | None]] = {
    "rope.freqs": ("rope.freqs", 1),
    f"rel_pos_bias.{BIAS_TABLE}": (f"attn.{BIAS_TABLE}", None),
    **{
        f"shared_rel_pos.mlp.{layer}": (f"attn.rel_pos.mlp.{layer}", None)
        for layer in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
    },
}
# Tensors of LayerScale, with their names in the classes Eva and Beit.
SCALES = {"ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2"}

# Arguments of timm's models that follow from the tensors, or that affect only training.
_SHOWN = {
    *("patch_size", "embed_dim", "depth", "mlp_ratio", "img_size", "in_chans"),
    *("num_classes", "class_token", "reg_tokens", "num_reg_tokens", "init_values"),
    *("no_embed_class", "qkv_bias", "qkv_fused", "proj_bias", "fc_norm", "final_norm"),
    *("pre_norm", "qk_norm", "scale_attn_norm", "scale_mlp_norm", "scale_mlp"),
    *("scale_attn_inner", "swiglu_mlp", "swiglu_align_to", "attn_type", "use_fc_norm"),
    *("use_pre_transformer_norm", "use_post_transformer_norm", "use_abs_pos_emb"),
    *("attn_pool_mlp_ratio", "use_rel_pos_bias", "dynamic_img_size", "weight_init"),
    *("strict_img_size", "fix_init", "head_init_scale", "drop_rate", "drop_path_rate"),
    *("proj_drop_rate", "pos_drop_rate", "attn_drop_rate", "patch_drop_rate"),
    *("rope_shift_coords", "rope_jitter_coords", "rope_rescale_coords", "rel_pos_dim"),
    *("shared_rel_pos", "use_shared_rel_pos_bias"),
}
# Arguments that change the outputs, with the values that are supported; None for any.
_SUPPORTED: dict[str, tuple | None] = {
    "num_heads": None,
    "act_layer": (None, *ACTIVATIONS),
    "global_pool": (None, *POOLINGS),
    "pos_embed": ("learn", "none", ""),
    "norm_layer": (None, *NORMS),
    "norm_eps": None,
    "embed_norm_layer": (None, "", *NORMS),
    "rel_pos_type": ("mlp",),
    "block_fn": (None, "Block", "ParallelScalingBlock", *_POST_NORM),
    "mlp_layer": (None, "Mlp", "swiglu_packed", "SwiGLU"),
    "attn_layer": (None, "", "attn"),
    "pool_include_prefix": (False, True),
    "use_rot_pos_emb": (False, True),
    "rope_type": ("cat", "dinov3", "mixed"),
    "rope_grid_offset": None,
    "rope_grid_indexing": tuple(AXES),
    "rope_temperature": None,
    "rope_rotate_half": (False, True),
    "ref_feat_shape": None,
    "use_post_norm": (False, True),
    "attn_pool_num_heads": None,
    **dict.fromkeys(("dynamic_img_pad", "use_naflex"), (False,)),
    "embed_layer": (None,),
}


def unsupported(arguments: Mapping[str, Any]) -> list[str]:
    """Return the arguments of timm that make a network that keras_vit does not have.

    Args:
        arguments: dict of arguments of a model in timm.

    Returns:
        List of `name=value`.
    """
    return [
        f"{name}={value!r}"
        for name, value in arguments.items()
        if name not in _SHOWN
        and (
            name not in _SUPPORTED
            or (_SUPPORTED[name] is not None and value not in (_SUPPORTED[name] or ()))
        )
    ]


class TimmNetwork:
    """Structure of one network of timm.

    Args:
        shapes: dict from name to shape of the tensors, with timm's names.
        kind: class of the model in timm: `"vit"`, `"eva"`, `"beit"`, `"relpos"` or
            `"naflex"`.
        arguments: dict of timm's arguments of the model.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], kind: str, arguments: dict[str, Any]
    ):
        self.shapes = shapes
        self.kind = kind
        self.arguments = arguments

    def _has(self, layer):
        """Return True if the first block has a layer, or one of its tensors."""
        name = f"blocks.0.{layer}"
        return name in self.shapes or f"{name}.weight" in self.shapes

    @functools.cached_property
    def num_layers(self) -> int:
        found = (re.match(r"blocks\.(\d+)\.", name) for name in self.shapes)
        return 1 + max((int(match[1]) for match in found if match), default=-1)

    @property
    def activation(self) -> str:
        """Activation of the MLPs that are not gated."""
        return ACTIVATIONS[self.arguments.get("act_layer") or "gelu"]

    @property
    def layer_norm_epsilon(self) -> float:
        return self.arguments.get("norm_eps", 1e-6)

    def is_plain(self) -> bool:
        """Return True if the tensors are those of a ViT as in the paper, DeiT or DINOv2.

        Others do not show all of their arguments, which then need the architecture.
        """
        shapes = self.shapes
        modern = [
            *("attn.q_bias", "attn.q_proj", "attn.norm", "attn.q_norm", "mlp.fc1_g"),
            *("mlp.norm", "rope.freqs", f"attn.{BIAS_TABLE}"),
        ]
        final = {"norm.weight", "fc_norm.weight"} & set(shapes)
        return (
            self.kind == "vit"
            and "pos_embed" in shapes
            and len(final) == 1
            and not any(map(self._has, modern))
            and not self._is_packed()
            and {"norm_pre.weight", "patch_embed.norm.weight"}.isdisjoint(shapes)
            and self._has("norm1.bias")
            and self._has("norm2")
            and self._has("attn.proj.bias")
        )

    def contradictions(self) -> list[str]:
        """Return the arguments that the tensors contradict, as `name=value`."""
        arguments, stated = self.arguments, {}
        has_positions = "pos_embed" in self.shapes
        if arguments.get("norm_layer") is not None and self._has("norm1"):
            stated["norm_layer"] = self._has("norm1.bias") == (
                arguments["norm_layer"] == "layernorm"
            )
        if "block_fn" in arguments:
            parallel = arguments["block_fn"] == "ParallelScalingBlock"
            stated["block_fn"] = parallel != self._has("norm2")
        if "use_abs_pos_emb" in arguments:
            stated["use_abs_pos_emb"] = has_positions == arguments["use_abs_pos_emb"]
        if "pos_embed" in arguments:
            stated["pos_embed"] = has_positions == (arguments["pos_embed"] == "learn")
        return [
            f"{name}={arguments[name]!r}" for name, fits in stated.items() if not fits
        ]

    def config(self, num_heads: int, pooling: str | None) -> dict[str, Any]:
        """Return the arguments of `ViT` that are the structure of the network.

        Args:
            num_heads: int, number of attention heads.
            pooling: the argument of `ViT`, as timm's `global_pool` says.
        """
        shapes = self.shapes
        gated = self._has("mlp.fc1_g") or self._is_packed()
        has_after = "fc_norm.weight" in shapes
        has_before = "norm.weight" in shapes
        config = {
            "mlp_dim": shapes["blocks.0.mlp.fc2.weight"][1],
            "num_layers": self.num_layers,
            "final_norm": (
                "after_pooling" if has_after else "before_pooling" if has_before else None
            ),
            "positions": self._positions(),
            "qkv_bias": self._qkv_bias(),
            # This is the initial value; the trained values come from the file.
            "layer_scale": 1e-5 if self._has("ls1.gamma") else None,
            "activation": self.activation,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "norm": "layer" if self._has("norm1.bias") else "rms",
            "mlp": self._mlp(gated),
            "attention": self._attention(),
            "block": self._block(),
            "embedding_norm": (
                "tokens"
                if "norm_pre.weight" in shapes
                else "patches"
                if "patch_embed.norm.weight" in shapes
                else None
            ),
        }
        return {**config, "pooling": self._pooling(pooling, num_heads, gated, config)}

    def _is_packed(self):
        """Return True if one layer has the gate of the MLP and its hidden layer."""
        shapes = self.shapes
        if not self._has("mlp.fc1"):
            return False
        outputs, inputs = (
            shapes["blocks.0.mlp.fc1.weight"][0],
            shapes["blocks.0.mlp.fc2.weight"][1],
        )
        return outputs == 2 * inputs

    def _qkv_bias(self):
        if self._has("attn.q_bias"):
            return "qv"
        if self._has("attn.q_proj.bias"):
            return True if self._has("attn.k_proj.bias") else "qv"
        return self._has("attn.qkv.bias")

    def _mlp(self, gated):
        options: dict[str, Any] = {}
        if self._has("mlp.norm"):
            options["inner_norm"] = True
        if not self._has("mlp.fc2.bias"):
            options["use_bias"] = False
        # Other kinds have SiLU in their gates, whatever `act_layer` is.
        states_gate = gated and self.kind == "vit" and self.arguments
        if states_gate and self.activation != "silu":
            options["activation"] = self.activation
        if options:
            return (GatedMLP if gated else MLP)(**options)
        return "swiglu" if gated else "plain"

    def _attention(self):
        options = {}
        if self._has("attn.q_norm"):
            options["qk_norm"] = True
        if self._has("attn.norm"):
            options["inner_norm"] = True
        if not self._has("attn.proj.bias"):
            options["use_projection_bias"] = False
        return SelfAttention(**options) if options else None

    def _block(self):
        if not self._has("norm2"):
            return "parallel"
        after = self.arguments.get("block_fn") in _POST_NORM
        return "post_norm" if after or self.arguments.get("use_post_norm") else "pre_norm"

    def _positions(self):
        added = ["learned"] if "pos_embed" in self.shapes else []
        inside = []
        if self.arguments.get("use_rot_pos_emb"):
            inside = [self._rotary()]
        elif self._has(f"attn.{BIAS_TABLE}"):
            inside = [RelativePositionBias()]
        elif self._has("attn.rel_pos.mlp.fc1"):
            width, _ = self.shapes["blocks.0.attn.rel_pos.mlp.fc1.weight"]
            inside = [RelativePositionMLP(hidden_dim=width)]
        positions = added + inside
        if not positions:
            return "none"
        return positions if inside else added[0]

    def _rotary(self):
        arguments = self.arguments
        kind = arguments.get("rope_type", "cat")
        temperature = float(arguments.get("rope_temperature", 10000.0))
        axes = AXES[arguments.get("rope_grid_indexing", "ij")]
        half = arguments.get("rope_rotate_half", False)
        layout = "half" if half else "interleaved"
        if kind == "mixed":
            if axes != "xy":
                raise ValueError(
                    "timm's mixed rotary positions with rope_grid_indexing='ij' have "
                    "their axes in another order than keras_vit's."
                )
            return MixedRotaryPositions(temperature=temperature, layout=layout)
        reference = arguments.get("ref_feat_shape") if kind == "cat" else None
        if isinstance(reference, int):
            reference = (reference, reference)
        return RotaryPositions(
            temperature=temperature,
            coordinates="index" if kind == "cat" else "centered",
            offset=float(arguments.get("rope_grid_offset", 0.0)),
            reference_grid_shape=reference and tuple(reference),
            axes=axes,
            layout=layout,
        )

    def _pooling(self, pooling, num_heads, gated, config):
        """Return the argument `pooling`, a layer where the words of it are not enough."""
        include_prefix = self.arguments.get("pool_include_prefix", False)
        if pooling == "gap" and include_prefix:
            return GlobalAveragePooling(0)
        if pooling != "map" or "attn_pool.mlp.fc1.weight" not in self.shapes:
            return pooling
        mlp_dim = self.shapes["attn_pool.mlp.fc1.weight"][0]
        eva = self.kind == "eva"
        heads = self.arguments.get("attn_pool_num_heads") or num_heads
        prefix = 0
        if not eva and not include_prefix:
            prefix = self.shapes.get("reg_token", (0, 0))[1] + (
                "cls_token" in self.shapes
            )
        plain = not eva and heads == num_heads and mlp_dim == config["mlp_dim"]
        if plain and not include_prefix and not gated:
            return "map"
        return AttentionPooling(
            heads,
            mlp_dim,
            prefix,
            activation="gelu" if eva else self.activation,
            layer_norm_epsilon=self.layer_norm_epsilon,
            norm=config["norm"],
        )

    def projections(self) -> tuple[str, bool, str]:
        """Return the names of the first layers of attention and MLP.

        Returns:
            Name of the projection to q, k and v, or to q alone; whether it is the
            latter; and name of the first layer of the MLP.
        """
        separate = self._has("attn.q_proj")
        expand = "mlp.fc1_g" if self._has("mlp.fc1_g") else "mlp.fc1"
        return "attn.q_proj" if separate else "attn.qkv", separate, expand

    def names(self) -> dict[str, Any]:
        """Return the names of the tensors, as for `keras_vit.weights.pieces.add_vit`."""
        _, separate, _ = self.projections()
        return tensor_names(
            separate=separate,
            gated=self._has("mlp.fc1_g"),
            embedding_norm="norm_pre" if "norm_pre.weight" in self.shapes else None,
            fc_norm="fc_norm.weight" in self.shapes,
        )


def tensor_names(
    separate: bool, gated: bool, embedding_norm: str | None, fc_norm: bool
) -> dict[str, Any]:
    """Return the names of the tensors, as for `keras_vit.weights.pieces.add_vit`.

    Args:
        separate: bool, whether q, k and v are projected by three layers.
        gated: bool, whether the gate of the MLP and its hidden layer are two layers.
        embedding_norm: str, name of the norm before the blocks, or None for the one
            inside the patch embedding.
        fc_norm: bool, whether the last norm follows the pooling.
    """
    q, k, v = (f"attn.{part}_proj" for part in "qkv")
    biases = ("attn.q_bias", None, "attn.v_bias")
    if separate:
        biases = (f"{q}.bias", None, f"{v}.bias")
    block = {
        "attention_norm": "norm1",
        "attention/qkv": (q, k, v) if separate else "attn.qkv",
        "attention/qkv/bias": biases,
        "attention/query_norm": "attn.q_norm",
        "attention/key_norm": "attn.k_norm",
        "attention/inner_norm": "attn.norm",
        "attention/projection": "attn.proj",
        "attention/rotary_positions/frequencies": "rope.freqs",
        "attention/relative_bias/table": f"attn.{BIAS_TABLE}",
        "attention/relative_mlp/expand": "attn.rel_pos.mlp.fc1",
        "attention/relative_mlp/contract": "attn.rel_pos.mlp.fc2",
        "mlp_norm": "norm2",
        "mlp/expand": ("mlp.fc1_g", "mlp.fc1_x") if gated else "mlp.fc1",
        "mlp/inner_norm": "mlp.norm",
        "mlp/contract": "mlp.fc2",
        "attention_scale": "ls1.gamma",
        "mlp_scale": "ls2.gamma",
    }
    pooling = {
        "query": "q",
        "key_value": "kv",
        "projection": "proj",
        "norm": "norm",
        "mlp/expand": "mlp.fc1",
        "mlp/contract": "mlp.fc2",
    }
    return {
        "patches": "patch_embed.proj",
        "embedding_norm": embedding_norm or "patch_embed.norm",
        "class_token": "cls_token",
        "distillation_token": "dist_token",
        "positions": "pos_embed",
        "registers": "reg_token",
        "block": block,
        "norm": "fc_norm" if fc_norm else "norm",
        "probe": "attn_pool.latent",
        "pooling": {layer: f"attn_pool.{name}" for layer, name in pooling.items()},
    }
