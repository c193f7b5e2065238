"""Writer of the files in this directory, which later versions must load and resume.

`python -m tests.earlier.write BACKEND` under each backend; the files here were
written by the version of 2026-11-26 (commit 13a1dd2).
"""

import os
import pathlib
import shutil
import sys

HERE = pathlib.Path(__file__).parent

MODELS = {
    "vit": {
        "class_names": ["a", "b", "c", "d", "e"],
        "class_token": True,
        "layer_scale": 0.1,
        "pooling": "map",
        "positions": "relative",
        "registers": 2,
        "representation_size": 12,
        "classifier_activation": "sigmoid",
    },
    "hybrid": {"patch_size": 2, "stem": True, "dtype": "mixed_bfloat16"},
    "t2t": {"tokens": "performer", "backbone": "ghost"},
    "t2t_dense": {
        "tokens": "transformer",
        "backbone": "dense",
        "num_layers": (2, 1),
        "growth_rate": 8,
    },
}
RUN = [
    "epochs=3",
    "checkpoint_steps=12",
    "batch_size=96",
    "optimization.ema=0.9",
    "model.arguments.input_shape=(16, 16, 1)",
    "model.arguments.patch_size=8",
    "model.arguments.hidden_dim=16",
    "model.arguments.mlp_dim=24",
    "model.arguments.num_heads=2",
    "model.arguments.num_layers=1",
    "model.arguments.dropout_rate=0.1",
    "augmentation.pad_and_crop=2",
    "augmentation.mixup=0.2",
]


def build(name):
    from keras_vit.layers import Preprocessor, ResNetStem
    from tests.cases import perturb, tiny_t2t, tiny_vit

    arguments = dict(MODELS[name])
    if arguments.pop("stem", False):
        arguments["stem"] = ResNetStem((1,), width=32)
    arguments["preprocessor"] = Preprocessor([120.0, 110.0, 100.0], [60.0, 61.0, 62.0])
    return perturb((tiny_t2t if "tokens" in arguments else tiny_vit)(**arguments))


def write_models():
    """Write each model, its weights, its pixels and its output."""
    import numpy as np

    from tests.cases import array

    for name in MODELS:
        model = build(name)
        model.save(HERE / f"{name}.keras")
        model.save_weights(HERE / f"{name}.weights.h5")
        shape = (2, *model.input_shape[1:])
        pixels = np.random.default_rng(0).integers(0, 256, shape, "uint8")
        output = array(model(model.preprocessor(pixels))).astype("float32")
        np.savez(HERE / f"{name}.npz", pixels=pixels, output=output)


def write_layers():
    """Write layers without a model of keras_vit, and their output.

    In the file here, the positions are the earlier argument `relative_grid_shape=(2, 3)`.
    """
    import keras
    import numpy as np

    from keras_vit.layers import RelativePositions, SelfAttention, TransformerBlock
    from tests.cases import array, perturb, random_array

    positions = RelativePositions((2, 3))
    block = TransformerBlock(2, 24, positions=positions, name="block")
    attention = SelfAttention(2, name="attention")
    model = perturb(keras.Sequential([keras.Input((8, 16)), block, attention]))
    model.save(HERE / "layers.keras")
    tokens = random_array(2, 8, 16)
    np.savez(HERE / "layers.npz", tokens=tokens, output=array(model(tokens)))


def write_export():
    """Write a SavedModel of `vit`."""
    import keras

    import keras_vit

    model = keras.saving.load_model(HERE / "vit.keras")
    shutil.rmtree(HERE / "saved_model", ignore_errors=True)
    keras_vit.export.saved_model(model, HERE / "saved_model")


def write_run(backend):
    """Write a run that stopped at its first of three checkpoints, and its last state."""
    from keras_vit.training import config as configs
    from keras_vit.training import runs

    settings = configs.override(configs.load("digits_vit"), RUN)
    whole = HERE / f"run_{backend}"
    shutil.rmtree(whole, ignore_errors=True)

    kept = HERE / "kept"
    replace = os.replace

    def copy_first_state(source, target, **keywords):
        replace(source, target, **keywords)
        if pathlib.Path(target).name == "state.npz" and not kept.exists():
            shutil.copytree(whole, kept)

    os.replace = copy_first_state
    runs.train(settings, whole)
    os.replace = replace
    shutil.copy(whole / "last.keras", HERE / f"last_{backend}.keras")
    shutil.rmtree(whole)
    kept.rename(whole)


if __name__ == "__main__":
    backend = os.environ["KERAS_BACKEND"] = sys.argv[1]
    if backend == "tensorflow":
        write_models()
        write_layers()
        write_export()
    write_run(backend)
