"""Warm-up requests, which TF Serving runs before it reports a model as ready."""

import pathlib

import tensorflow as tf


def write_warm_up(path, requests):
    """Write the warm-up requests of a SavedModel.

    The file is `assets.extra/tf_serving_warmup_requests` in the SavedModel's directory.

    Args:
        path: `pathlib.Path` of the SavedModel.
        requests: dict from the name of a signature to a dict from the name of an
            argument to a batch; its first image is sent.

    Returns:
        bool, False if the package `tensorflow-serving-api`, which defines the file
        format, is not installed.
    """
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError:
        return False
    file = pathlib.Path(path, "assets.extra", "tf_serving_warmup_requests")
    file.parent.mkdir()
    with tf.io.TFRecordWriter(str(file)) as writer:
        for name, inputs in requests.items():
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = name
            for argument, batch in inputs.items():
                request.inputs[argument].CopyFrom(tf.make_tensor_proto(batch[:1]))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())
    return True
