"""The command `keras-vit query`."""

import argparse
import sys

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from keras_vit.serve.image_errors import IMAGE_ERRORS


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: the parsed options.
    """
    try:
        files = [path.read_bytes() for path in options.images]
        with grpc.insecure_channel(options.server) as channel:
            answer = classify(channel, options.model, files, options.timeout)
    except OSError as error:
        sys.exit(f"error: {error}")
    except grpc.RpcError as error:
        reason = f"{error.code()}: {error.details()}"
        if "predict_bytes" in error.details() and "not found" in error.details():
            reason += (
                f"\n{options.model} was exported without a classifier and names no "
                "classes: request its features with the signature embed or "
                "features_bytes (docs/serving.md)."
            )
        sys.exit(f"error: {options.server}: {reason}")
    for i, path in enumerate(options.images):
        if answer["error"][i]:
            print(f"{path}: {IMAGE_ERRORS[answer['error'][i]]}")
            continue
        best = zip(answer["labels"][i], answer["scores"][i], strict=True)
        # The scores of a model without softmax or sigmoid are not probabilities.
        form = ".1%" if "probabilities" in answer else ".4f"
        print(f"{path}:", ", ".join(f"{label.decode()} {p:{form}}" for label, p in best))


def classify(channel, model, files, timeout):
    """Send image files to a server and return the outputs by name.

    Args:
        channel: the gRPC channel to the server.
        model: str, the name of the model on the server.
        files: list of bytes, the image files.
        timeout: float, seconds.

    Returns:
        Dict of arrays, named as by `keras_vit.export.saved_model`.
    """
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = "predict_bytes"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(files))
    service = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    outputs = service.Predict(request, timeout=timeout).outputs
    return {name: tf.make_ndarray(tensor) for name, tensor in outputs.items()}
