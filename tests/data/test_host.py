import keras
import pytest

from keras_vit.data.host import tensorflow as host_tensorflow


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="TensorFlow may have the GPU"
)
@pytest.mark.usefixtures("tensorflow")
def test_another_backend_keeps_the_accelerator():
    tf = host_tensorflow()
    assert tf.config.get_visible_devices("GPU") == []
    assert len(tf.config.get_visible_devices("CPU")) == 1
