"""Demo on handwritten digits, from training to a SavedModel, in a few minutes.

python -m recipes.demo [--workdir DIR]

Pretrains a small Vision Transformer on 8x8 images, fine-tunes it on 16x16 images with
resized position embeddings, exports a SavedModel, and classifies held-out images with it
in a process without Keras.
"""

import argparse
import datetime
import pathlib
import subprocess
import sys
import time

import keras
import numpy as np

import keras_vit
from keras_vit.cli import command_line
from keras_vit.training import WarmupSchedule, pictures
from recipes import digits

SEED = 0
BATCH_SIZE = 32
PATCH_SIZE = 2
TOLERANCE = 1e-5
PRETRAIN_SIZE, FINETUNE_SIZE = 8, 16


def main():
    arguments = parse_arguments()
    workdir = arguments.workdir
    workdir.mkdir(parents=True)
    keras.utils.set_random_seed(SEED)
    print(f"Backend: {keras.backend.backend()}. Everything goes to {workdir}/")
    curves, start = {}, time.monotonic()

    model = small_vit()
    stage = f"pretraining at {PRETRAIN_SIZE}x{PRETRAIN_SIZE}"
    curves[stage] = train(model, stage, arguments.epochs[0], pretraining_optimizer)
    report(model, stage, workdir / "pretrained.keras")

    model = model.resized((FINETUNE_SIZE, FINETUNE_SIZE, 1))
    stage = f"fine-tuning at {FINETUNE_SIZE}x{FINETUNE_SIZE}"
    curves[stage] = train(model, stage, arguments.epochs[1], finetuning_optimizer)
    report(model, stage, workdir / "finetuned.keras")
    print(f"Training and testing took {time.monotonic() - start:.0f} s.\n")

    version = keras_vit.export.saved_model(model, workdir / "served")
    artefact("SavedModel", version)
    probabilities = classify_without_keras(model, version, workdir)
    pictures.learning_curves(curves, workdir / "curves.png")
    artefact("learning curves", workdir / "curves.png")
    images, labels = digits.load(FINETUNE_SIZE)["test"]
    pictures.predictions(images, labels, probabilities, workdir / "predictions.png")
    artefact("sheet of predictions", workdir / "predictions.png")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    default = pathlib.Path("runs", f"demo-{keras.backend.backend()}-{now}")
    parser.add_argument(
        "--workdir", type=pathlib.Path, default=default, help="a new directory"
    )
    parser.add_argument(
        "--epochs",
        type=int,
        nargs=2,
        default=(60, 30),
        metavar=("PRETRAIN", "FINETUNE"),
        help="default: %(default)s",
    )
    arguments = parser.parse_args()
    if arguments.workdir.exists():
        parser.error(f"{arguments.workdir} exists; choose a new --workdir.")
    if min(arguments.epochs) < 1:
        parser.error(f"--epochs must be 1 or more; received {arguments.epochs}.")
    return arguments


def small_vit():
    """Build a ViT with 4 blocks of width 48 and a GAP head, 77,434 parameters in all."""
    return keras_vit.ViT(
        input_shape=(PRETRAIN_SIZE, PRETRAIN_SIZE, 1),
        patch_size=PATCH_SIZE,
        hidden_dim=48,
        num_layers=4,
        num_heads=4,
        mlp_dim=96,
        classes=digits.CLASSES,
        pooling="gap",
        dropout_rate=0.1,
        name="vit_digits",
    )


def pretraining_optimizer(steps):
    """Return AdamW with a cosine schedule, warmup and gradient clipping at 1."""
    schedule = WarmupSchedule(3e-3, steps, warmup_steps=steps // 10)
    return keras.optimizers.AdamW(schedule, weight_decay=0.05, global_clipnorm=1.0)


def finetuning_optimizer(steps):
    """Return the ViT paper's SGD with momentum, a cosine schedule and clipping at 1."""
    schedule = WarmupSchedule(0.05, steps, warmup_steps=steps // 10)
    return keras.optimizers.SGD(schedule, momentum=0.9, global_clipnorm=1.0)


def train(model, stage, epochs, optimizer):
    """Test the model before training, train it, and return the history."""
    grid = "x".join(map(str, model.grid_shape))
    print(f"\n{stage.capitalize()}: a grid of {grid} patches")
    training, validation = batches(model, "train", SEED), batches(model, "validation")
    model.compile(
        optimizer=optimizer(epochs * int(training.cardinality())),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        # Keras's default does not use XLA on CPUs under TensorFlow; torch has no XLA.
        jit_compile=keras.backend.backend() != "torch",
    )
    print(f"Test accuracy before {stage}: {test_accuracy(model):.2%}")
    history = model.fit(
        training, validation_data=validation, epochs=epochs, shuffle=False
    )
    return history.history


def batches(model, part, seed=None):
    images, labels = digits.load(model.input_shape[1])[part]
    return digits.dataset(images, labels, model.preprocessor, BATCH_SIZE, seed)


def test_accuracy(model):
    results = model.evaluate(batches(model, "test"), verbose=0, return_dict=True)
    return results["accuracy"]


def report(model, stage, path):
    print(f"Test accuracy after {stage}: {test_accuracy(model):.2%}")
    model.save(path)
    artefact("model", path)


def classify_without_keras(model, version, workdir):
    """Run the SavedModel in another process and compare its probabilities with Keras's.

    Returns:
        The probabilities `(n, classes)`.
    """
    images, labels = digits.load(FINETUNE_SIZE)["test"]
    np.savez(workdir / "images.npz", images=images)
    command = [sys.executable, "-m", "recipes.classify"]
    command += [version, workdir / "images.npz", workdir / "predictions.npz"]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        sys.exit(f"recipes.classify failed:\n{process.stderr}")
    print(process.stdout, end="")
    with np.load(workdir / "predictions.npz") as predictions:
        served = predictions["probabilities"]
    expected = model.predict(model.preprocessor(images), verbose=0)
    difference = np.abs(served - expected).max()
    print(
        f"Test accuracy of the SavedModel: {np.mean(served.argmax(1) == labels):.2%}; "
        f"its probabilities are within {difference:.1e} of Keras's"
    )
    if not difference < TOLERANCE:
        sys.exit(f"The SavedModel differs from Keras by more than {TOLERANCE}.")
    artefact("held-out images", workdir / "images.npz")
    artefact("their predictions", workdir / "predictions.npz")
    return served


def artefact(what, path):
    print(f"  {what}: {path}")


if __name__ == "__main__":
    with command_line.reported():
        main()
