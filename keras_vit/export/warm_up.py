"""Requests that TF Serving sends itself before it says that a model is ready."""

import pathlib

import tensorflow as tf


def write_warm_up(path, signatures, requests):
    """Writes `assets.extra/tf_serving_warmup_requests` of a SavedModel.

    Args:
        path: `pathlib.Path` of the SavedModel.
        signatures: its signatures, as `tf.saved_model.load` gives them.
        requests: dict from name of a signature to a batch for its argument.

    Returns:
        bool; False without the package `tensorflow-serving-api`, which has the format.
    """
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError:
        return False
    file = pathlib.Path(path, "assets.extra", "tf_serving_warmup_requests")
    file.parent.mkdir()
    with tf.io.TFRecordWriter(str(file)) as writer:
        for name, batch in requests.items():
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = name
            (argument,) = signatures[name].structured_input_signature[1]
            request.inputs[argument].CopyFrom(tf.make_tensor_proto(batch))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())
    return True
