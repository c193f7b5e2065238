"""Table of timm's architectures, made from timm's own code.

    python -m recipes.timm_architectures > keras_vit/data/timm_architectures.toml

The table has the arguments of timm's models that change the outputs and that no tensor
shows, or that the reader of checkpoints needs to interpret the tensors. Dropout rates and
initial values are omitted. A second table has the numbers of heads by size, for files
that name no architecture. Needs timm.
"""

import dataclasses
import functools
import importlib

from recipes.benchmark import torchvision_stub

MODULES = (
    *("vision_transformer", "deit", "eva", "beit", "vision_transformer_relpos"),
    *("vision_transformer_hybrid", "naflexvit"),
)
# Classes of timm's models, by the name that the table has for them.
KINDS = {
    "VisionTransformer": "vit",
    "VisionTransformerDistilled": "vit",
    "Eva": "eva",
    "Beit": "beit",
    "VisionTransformerRelPos": "relpos",
    "NaFlexVit": "naflex",
}
# Arguments that do not change the outputs, or that the tensors show.
OMITTED = {
    *("embed_dim", "depth", "mlp_ratio", "img_size", "patch_size", "init_values"),
    *("feature_cfg", "pretrained_filter_fn", "pretrained_strict", "pretrained_cfg"),
    *("class_token", "reg_tokens", "num_reg_tokens", "no_embed_class", "qkv_bias"),
    *("qkv_fused", "proj_bias", "dynamic_img_size", "fc_norm", "use_fc_norm"),
    *("final_norm", "pre_norm", "use_pre_transformer_norm", "embed_norm_layer"),
    *("use_post_transformer_norm", "use_abs_pos_emb", "scale_mlp", "scale_attn_norm"),
    *("scale_mlp_norm", "scale_attn_inner", "swiglu_mlp", "swiglu_align_to"),
    *("attn_pool_mlp_ratio", "use_rel_pos_bias", "attn_type", "weight_init"),
    *("rope_rescale_coords", "rel_pos_dim", "shared_rel_pos", "embed_layer", "qk_norm"),
    *("attn_only_layer_scale", "pos_embed_grid_size"),
}
# Defaults of timm's classes that the table states for every architecture.
DEFAULTS = {
    "vit": {"global_pool": "token", "act_layer": "gelu"},
    "eva": {"global_pool": "avg", "act_layer": "gelu"},
    "beit": {"global_pool": "avg", "act_layer": "gelu"},
    "relpos": {"global_pool": "avg", "act_layer": "gelu"},
    "naflex": {"global_pool": "map", "act_layer": "gelu"},
}
# Arguments of networks that do not have the tensors of a plain ViT.
NOT_PLAIN = {"norm_layer", "mlp_layer", "attn_layer", "block_fn"}
WORDS = {"SwiGLUPacked": "swiglu_packed", "GELU": "gelu", "SiLU": "silu"}


class _FoundError(Exception):
    """Signal that ends the construction of a model once its arguments are known."""


def arguments_of(entrypoint):
    """Return the class and the arguments with which an entry point builds its model."""
    try:
        entrypoint()
    except _FoundError as found:
        model_class, arguments = found.args
        config = arguments.pop("cfg", None)  # NaFlexViT has its arguments in a dataclass.
        for field in dataclasses.fields(config) if config is not None else ():
            value = getattr(config, field.name)
            if value != field.default:
                arguments[field.name] = value
        return model_class, arguments
    raise ValueError(f"{entrypoint} builds no model of these modules.")


def _raise_found(model_class, variant, pretrained=False, **arguments):
    raise _FoundError(model_class.__name__, arguments)


def plain(name, value):
    """Return an argument as values of TOML, in a dict by the argument's name."""
    if name == "norm_layer":
        layer, options = value, {}
        if isinstance(value, functools.partial):
            layer, options = value.func, value.keywords
        word = layer if isinstance(layer, str) else layer.__name__.lower()
        return {"norm_layer": word, **{f"norm_{k}": v for k, v in options.items()}}
    if isinstance(value, functools.partial):
        gated = value.func.__name__ == "GluMlp" and not value.keywords["gate_last"]
        return {name: "swiglu_packed" if gated else repr(value)}
    if isinstance(value, type):
        return {name: WORDS.get(value.__name__, value.__name__)}
    return {name: list(value) if isinstance(value, tuple) else value}


def toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def networks():
    """Yield the name, class, arguments and settings of every architecture."""
    from timm.models import _registry

    for module in MODULES:
        code = importlib.import_module(f"timm.models.{module}")
        vars(code)["build_model_with_cfg"] = _raise_found
    for name, module in sorted(_registry._model_to_module.items()):
        deprecated = name in _registry._deprecated_models
        if module not in MODULES or deprecated:
            continue
        model_class, given = arguments_of(_registry._model_entrypoints[name])
        kind = KINDS[model_class]
        arguments = dict(DEFAULTS[kind])
        for argument, value in given.items():
            if argument not in OMITTED and value is not None:
                arguments |= plain(argument, value)
        if arguments.get("use_rot_pos_emb") is False:
            del arguments["use_rot_pos_emb"]
        yield name, model_class, given, arguments


def groups(rows):
    """Return a dict from the settings of architectures to their names."""
    found: dict[tuple, list[str]] = {}
    for name, model_class, _, arguments in rows:
        settings = tuple((key, toml(arguments[key])) for key in sorted(arguments))
        found.setdefault((KINDS[model_class], settings), []).append(name)
    return found


def sizes(rows):
    """Return the sizes and numbers of heads of networks with a plain ViT's tensors."""
    found = set()
    for _, model_class, given, arguments in rows:
        is_hybrid = callable(given.get("embed_layer"))
        if KINDS[model_class] != "vit" or is_hybrid or NOT_PLAIN & set(arguments):
            continue
        width, pooling = given.get("embed_dim", 768), arguments["global_pool"]
        has_norm_after = given.get("fc_norm")
        if has_norm_after is None:
            has_norm_after = pooling == "avg"
        found.add(
            (
                width,
                given.get("depth", 12),
                int(width * given.get("mlp_ratio", 4.0)),
                given.get("class_token", True),
                has_norm_after,
                pooling == "map",
                arguments.get("num_heads", 12),
            )
        )
    return sorted(found)


def main():
    torchvision_stub.install()
    import timm

    print(f"# Architectures of timm {timm.__version__}, grouped by the arguments that no")
    print("# tensor shows. Made by recipes/timm_architectures.py; not edited by hand.")
    rows = list(networks())
    print("\n# Sizes of the networks with the tensors of a plain ViT: width, number of")
    print("# blocks, and width of the MLP; whether they have a class token, a norm after")
    print("# the pooling, and attention pooling; and their number of heads.")
    print("sizes = [")
    for size in sizes(rows):
        print(f"    {toml(list(size))},")
    print("]")
    for (kind, settings), names in sorted(groups(rows).items()):
        print(f'\n[[groups]]\nkind = "{kind}"')
        print("arguments = { " + ", ".join(f"{k} = {v}" for k, v in settings) + " }")
        print("names = [\n" + "".join(f'    "{name}",\n' for name in names) + "]")


if __name__ == "__main__":
    main()
