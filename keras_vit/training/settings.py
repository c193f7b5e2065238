"""Sections of a training config: network, data, optimization and objectives."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """Settings of the network.

    Attributes:
        architecture: name of a constructor of `keras_vit`, such as `ViTS16`, `T2TViT14`
            or `BiTR50x1`, or of a network of `keras.applications`, such as `ResNet50`;
            see `keras_vit.KerasApplication`.
        arguments: arguments of the constructor. The run adds `classes` and the
            preprocessor.
        weights: None for random weights, or a checkpoint. It is anything that
            `keras_vit.load_checkpoint` reads; the model is built from it, and
            `arguments` override its own.
    """

    architecture: str = "ViTS16"
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Settings of the data sets.

    Attributes:
        train: training set: `digits`, `tfds:NAME[:SPLIT]`, `folder:PATH`,
            `table:PATH[:SPLIT]` or `datasets:PATH[:SPLIT]`.
        validation: set that decides which checkpoint is best. `"split:0.1"` takes a
            tenth of the images of every class out of `train`, always the same ones;
            `"split:0.1:1"` takes others.
        test: set that is evaluated once, after training; None for none.
        fraction: fraction of the training images that is used, always the same ones,
            after a validation set is split off; see `keras_vit.data.subsets`.
        data_dir: directory of the TFDS data sets; None for the default of TFDS.
        download: whether TFDS may download.
        unreadable: `"error"`, or `"skip"` to omit and count unreadable images.
        cache: whether to keep the undecoded images in memory.
        shuffle_buffer: number of images among which a shuffle draws; None for all.
        exif: whether to rotate images upright by their EXIF orientation. Evaluation,
            prediction and export of the run do the same.
        labels: `"single"`, one class per image; `"multi"`, any number of classes per
            image, each with its own probability; or `"regression"`, numbers. The last two
            are for tables.
        path_column: name of the column of a table with the paths of the images.
        label_column: name of the column with the labels, or several names separated by
            commas.
        scale: mean and standard deviation that standardize each value of a regression;
            None for those of the training set.
        class_weights: None, or `"balanced"` to weight each training image by the inverse
            of the number of images in its class.
        sampling: None, or `"balanced"` to draw equally many images of every class in each
            epoch, which repeats images of small classes and leaves out images of large
            classes.
        repeats: number of times that a batch has each of its images, with different
            augmentations (repeated augmentation, 3 in DeiT). An epoch then has one
            `repeats`-th of the images.
    """

    train: str = "digits:train"
    validation: str = "digits:validation"
    test: str | None = None
    fraction: float = 1.0
    data_dir: str | None = None
    download: bool = False
    unreadable: str = "error"
    cache: bool = True
    shuffle_buffer: int | None = None
    exif: bool = True
    labels: str = "single"
    path_column: str = "path"
    label_column: str = "label"
    scale: tuple[tuple[float, float], ...] | None = None
    class_weights: str | None = None
    sampling: str | None = None
    repeats: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimization:
    """Settings of the optimizer, its learning-rate schedule and the loss.

    Attributes:
        optimizer: `"adamw"`, `"adam"`, `"sgd"`, `"lion"`, `"lamb"` or `"muon"` (hidden
            matrices only, AdamW for the rest).
        learning_rate: peak learning rate of the schedule.
        schedule: `"cosine"`, `"linear"`, `"rsqrt"` or `"constant"`.
        warmup_steps: updates from `warmup_start` to the peak; below 1.0, a fraction of
            all updates.
        warmup_start: learning rate of the first update.
        final_learning_rate: learning rate at the end of the decay or the cooldown, which
            the update after the last one would have. It has no effect on `"rsqrt"` and
            `"constant"` without a cooldown.
        cooldown_steps: updates of a linear decrease to the final learning rate; below
            1.0, a fraction of all updates.
        beta_1: decay rate of the first moment (Adam, AdamW, Lamb, the AdamW part of
            Muon); share of the momentum in an update (Lion).
        beta_2: decay rate of the second moment; of the momentum (Lion, whose authors use
            0.99).
        momentum: momentum of SGD and Muon (whose author uses 0.95).
        weight_decay: weight decay of kernels; other weights have none.
        scaled_decay: whether the learning rate scales the weight decay, as in AdamW. If
            not, only the shape of the schedule does, as in big_vision.
        clip_norm: largest norm of the whole gradient; None for no clipping.
        layer_decay: learning rate of each block relative to the block above it.
        backbone_multiplier: learning rate of all weights except the head's, relative to
            the head's. It has no effect on LoRA, whose factors have the head's rate.
        frozen: prefixes of the paths of weights that do not train. `"block_0/attention"`
            and `"block_1"` match only those layers, `"block_"` all blocks, `"backbone"`
            everything except the head and the factors of LoRA. All other weights train,
            even if the checkpoint had them frozen.
        unfreeze: gradual unfreezing: pairs of a fraction of the batches and the lowest
            layer that trains in it, with all layers above: `"head"`, `"block_8"`, or
            `"all"`. In `((0.2, "head"), (0.3, "block_8"), (0.5, "all"))` the fractions
            add up to 1. Weights of `frozen` never train. Empty to train all from the
            start.
        accumulation_steps: number of batches whose gradients make one update.
        ema: momentum of the weight average that is evaluated and saved; None for none.
            The average moves at every update, which `accumulation_steps` batches make.
        loss: `"softmax"` or `"sigmoid"`, for one class per image. The loss of
            multi-label images is always the sigmoid's, that of regression the mean
            squared error.
        label_smoothing: fraction of each label that is replaced, under a softmax by
            equal parts of all classes, under a sigmoid by one half. Not for regression.
        binary_labels: whether images mixed by mixup or CutMix have both classes in full
            under `loss="sigmoid"`, as in DeiT III, instead of in their shares.
    """

    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_steps: int | float = 0.1
    warmup_start: float = 0.0
    final_learning_rate: float = 0.0
    cooldown_steps: int | float = 0
    beta_1: float = 0.9
    beta_2: float = 0.999
    momentum: float = 0.9
    weight_decay: float = 0.0
    scaled_decay: bool = True
    clip_norm: float | None = 1.0
    layer_decay: float = 1.0
    backbone_multiplier: float = 1.0
    frozen: tuple[str, ...] = ()
    unfreeze: tuple[tuple[float, str], ...] = ()
    accumulation_steps: int = 1
    ema: float | None = None
    loss: str = "softmax"
    label_smoothing: float = 0.0
    binary_labels: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRA:
    """Settings of fine-tuning with LoRA; see `keras_vit.lora.enable`.

    Only the low-rank factors and the head train.

    Attributes:
        rank: rank of the updates; None for no LoRA.
        alpha: factor of the updates, divided by the rank; None for the rank.
        layers: parts of the paths of the dense layers that get updates, such as
            `"attention/qkv"` or `"block_11"`.
    """

    rank: int | None = None
    alpha: float | None = None
    layers: tuple[str, ...] = ("attention", "mlp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masking:
    """Settings of pretraining without labels: masked patches and MAE's decoder.

    Attributes:
        ratio: fraction of the patches that is masked: 0.5 in masked patch prediction's
            paper, 0.75 in MAE's; of the pixels in `"pixels"`: 0.15 in iGPT's.
        decoder_dim: width of MAE's decoder.
        decoder_layers: number of blocks of MAE's decoder.
        decoder_heads: number of attention heads of MAE's decoder.
    """

    ratio: float = 0.5
    decoder_dim: int = 512
    decoder_layers: int = 8
    decoder_heads: int = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dino:
    """Settings of self-distillation without labels (DINO).

    Fractions are parts of the steps of the whole run.

    Attributes:
        local_crops: number of small crops of every image, besides the two large ones.
        local_size: side of the small crops in pixels; None for half of the model's side.
        global_area: range of the part of the image's area in a large crop.
        local_area: range of the part of the image's area in a small crop.
        prototypes: number of outputs of the projection head.
        head_dim: width of the hidden layers of the projection head.
        bottleneck_dim: width of its last layer but one.
        momentum: momentum of the teacher in the first step; it grows to 1.
        teacher_temperature: temperature of the teacher after its warm-up.
        warmup_temperature: temperature of the teacher in the first step.
        warmup: fraction of the steps with a growing temperature.
        frozen: fraction of the steps in which the last layer of the head is frozen.
    """

    local_crops: int = 6
    local_size: int | None = None
    global_area: tuple[float, float] = (0.4, 1.0)
    local_area: tuple[float, float] = (0.05, 0.4)
    prototypes: int = 65536
    head_dim: int = 2048
    bottleneck_dim: int = 256
    momentum: float = 0.996
    teacher_temperature: float = 0.07
    warmup_temperature: float = 0.04
    warmup: float = 0.3
    frozen: float = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlexibleSizes:
    """Settings of training with random patch sizes (FlexiViT).

    Attributes:
        patch_sizes: patch sizes that the steps draw from; empty for the model's own in
            every step. See `keras_vit.training.FlexiblePatches`.
        image_size: side of the images in pixels; None for the model's own.
        evaluation_patch_size: patch size of the evaluations during training; None for the
            middle one.
    """

    patch_sizes: tuple[int, ...] = ()
    image_size: int | None = None
    evaluation_patch_size: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adaptive:
    """Settings of training with tokens that stop, each at its own depth (A-ViT).

    Attributes:
        ponder_weight: weight of the mean number of blocks that a token needs; None for no
            stopping tokens.
        prior_weight: weight of the divergence from the prior of the depths.
        target_depth: number of the block, counted from 1, at the peak of the prior.
        scale: factor of a token's first entry in its score; see
            `keras_vit.layers.TokenHalting`.
        center: subtracted from the product.
    """

    ponder_weight: float | None = None
    prior_weight: float = 1e-3
    target_depth: float = 8.0
    scale: float = 5.0
    center: float = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation:
    """Settings of the teacher of `"classification"`.

    See `keras_vit.training.Distillation`.

    Attributes:
        teacher: None for no distillation, or a classifier with the classes of the
            training set: a checkpoint or the directory of a run, as for `model.weights`;
            a `.keras` file with any Keras classifier, which gets pixel values 0 to 255;
            or an exported SavedModel, which runs on the CPU beside the input pipeline.
        kind: `"hard"`, the class that the teacher predicts as a label, or `"soft"`, its
            probabilities.
        alpha: weight of the teacher in the loss, 0 to 1: 0.5 for `"hard"` and 0.1 for
            `"soft"` in DeiT.
        temperature: temperature of the probabilities of `"soft"`.
        warm_start: whether a distillation token that `model.weights` does not have starts
            as a copy of the class token, and its head as a copy of the class head.
    """

    teacher: str | None = None
    kind: str = "hard"
    alpha: float = 0.5
    temperature: float = 3.0
    warm_start: bool = False
