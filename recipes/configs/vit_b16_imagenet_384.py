"""ViT-B/16 from ImageNet-21k to ImageNet-1k at 384x384, with the ViT paper's settings."""

from keras_vit.training.augment import Augmentation
from recipes.config import Config, Data, Model, Optimization

# The paper's batch of 512 in parts that one GPU holds, as many as in the authors' code.
PARTS = 8

CONFIG = Config(
    about="ViT-B/16 from ImageNet-21k to ImageNet-1k at 384x384 (arXiv:2010.11929, "
    "appendix B.1.1 and table 4): the learning rate is chosen on 1 % of the training "
    "set. The paper then trains on all of it: --set data.train=tfds:imagenet2012:train.",
    command="python -m recipes.sweep vit_b16_imagenet_384 "
    "--workdir runs/vit_b16_imagenet_384",
    hardware="one GPU of 80 GB, hours for each learning rate",
    expected="83.97 % top-1 (table 5)",
    model=Model(
        architecture="ViTB16",
        arguments={"input_shape": [384, 384, 3]},
        weights="vit_b16.orig_in21k_224",
    ),
    data=Data(
        train="tfds:imagenet2012:train[:99%]",
        validation="tfds:imagenet2012:train[99%:]",
        test="tfds:imagenet2012:validation",
        cache=False,
    ),
    augmentation=Augmentation(crop_area=(0.05, 1.0), horizontal_flip=True),
    optimization=Optimization(
        optimizer="sgd",
        learning_rate=0.03,
        warmup_steps=500,
        accumulation_steps=PARTS,
    ),
    steps=PARTS * 20_000,
    checkpoint_steps=PARTS * 1000,
    batch_size=512 // PARTS,
    dtype="mixed_bfloat16",
    grid={"optimization.learning_rate": [0.003, 0.01, 0.03, 0.06]},
)
