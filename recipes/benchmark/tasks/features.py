"""Tasks that run a headless model as an ONNX file of keras_vit and as one of timm."""

import pathlib
from importlib import import_module
from typing import Any

import numpy as np

from recipes.benchmark import torchvision_stub
from recipes.benchmark.contestants import random_batch
from recipes.benchmark.timing import throughput

OPSET = 18


def served(contestant, checkpoint, sizes, directory, batch, repetitions):
    """Prepare to measure the latency and the throughput of an ONNX file in onnxruntime.

    All files return the pooled features and the tokens. Those of keras_vit take pixels,
    which they scale; that of `keras_vit-ONNX-resize` takes images of any size. The file
    of timm takes scaled images.
    """
    place = pathlib.Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    model = _model(place, checkpoint, sizes, contestant.endswith("resize"))
    path = place / f"{contestant}.onnx"
    if not path.exists():
        (_export_timm if contestant == "timm" else _export_keras_vit)(model, path)
    session = import_module("onnxruntime").InferenceSession(path)
    images = (random_batch(batch, sizes["image_size"])[0] * 50 + 128).clip(0, 255)
    if contestant == "timm":
        images = np.asarray(model.preprocessor(images)).transpose(0, 3, 1, 2).copy()

    def forward():
        return session.run(["pooled", "tokens"], {"images": images})

    _check_same(forward(), contestant, batch, place)
    return throughput(forward, batch, repetitions)


def _model(place, checkpoint, sizes, resizes):
    """Return the headless model, which has random weights without a checkpoint.

    Its preprocessor does not crop, so that it does not change images of the model's size.
    """
    import keras_vit

    if checkpoint is None:
        checkpoint = place / "model.keras"
        if not checkpoint.exists():
            arguments = dict(sizes)
            size = arguments.pop("image_size")
            arguments |= {"layer_scale": 1.0, "activation": "gelu", "include_top": False}
            keras_vit.ViT((size, size, 3), **arguments).save(checkpoint)
    shape = (sizes["image_size"], sizes["image_size"], 3)
    model = keras_vit.load_checkpoint(checkpoint, input_shape=shape, head="drop")
    config = model.preprocessor.get_config()
    config |= {"crop_fraction": None, "crop_rounding": "nearest"}
    preprocessor = type(model.preprocessor).from_config(config)
    model.preprocessor = preprocessor if resizes else preprocessor.with_image_size(None)
    return model


def _export_keras_vit(model, path):
    import_module("keras_vit.export").onnx(model, path, verbose=False)


def _export_timm(model, path):
    import keras_vit.convert

    torchvision_stub.install()
    timm = import_module("timm")
    torch: Any = import_module("torch")
    model.save(path.with_suffix(".keras"))
    directory = path.with_suffix(".timm")
    keras_vit.convert.convert(path.with_suffix(".keras"), directory, to="timm")
    network = timm.create_model(f"local-dir:{directory}", pretrained=True).eval()

    class Features(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            tokens = self.network.forward_features(images)
            pooled = self.network.forward_head(tokens, pre_logits=True)
            return pooled, tokens[:, self.network.num_prefix_tokens :]

    names = ["images", "pooled", "tokens"]
    torch.onnx.export(
        Features(),
        (torch.zeros(1, 3, *model.input_shape[1:3]),),
        path,
        input_names=names[:1],
        output_names=names[1:],
        dynamic_axes={name: {0: "batch"} for name in names},
        opset_version=OPSET,
        dynamo=False,  # The exporter that needs no further packages.
    )


def _check_same(outputs, contestant, batch, place):
    """Raise a ValueError if another contestant computed other features of the batch."""
    pooled, tokens = outputs
    found = {"pooled": pooled, "tokens": tokens.reshape(batch, -1, tokens.shape[-1])}
    np.savez(place / f"{contestant}-{batch}.npz", **found)
    for path in place.glob(f"*-{batch}.npz"):
        with np.load(path) as other:
            for name, values in found.items():
                scale = max(1.0, float(np.abs(values).max()))
                difference = float(np.abs(values - other[name]).max()) / scale
                if not difference <= 1e-3:  # It may be NaN.
                    raise ValueError(
                        f"{name} of {contestant} and of {path.name} differ by "
                        f"{difference:.1e}."
                    )
