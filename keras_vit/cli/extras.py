"""Optional libraries and the extras of the package that install them."""

EXTRAS = {
    "ai_edge_litert": "litert",
    "grpc": "tf-serving",
    "h11": "serve",
    "huggingface_hub": "hub",
    "importlib_resources": "train",
    "jax": "jax",
    "matplotlib": "train",
    "PIL": "train",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "orjson": "serve",
    "prometheus_client": "serve",
    "scipy": "train",
    "sklearn": "train",
    "starlette": "serve",
    "tensorboard": "train",
    "tensorflow": "tensorflow",
    "tensorflow_datasets": "train",
    "tensorflow_serving": "tf-serving",
    "tf2onnx": "onnx",
    "torch": "torch",
    "uvicorn": "serve",
}


def install_command(error: BaseException) -> str | None:
    """Return the pip command that installs a missing library, or None.

    Args:
        error: an error; only a ModuleNotFoundError has a command.
    """
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    extra = EXTRAS.get((name or "").partition(".")[0])
    return extra and f"Run pip install 'keras_vit[{extra}]'."
