"""The whole way on handwritten digits, in a few minutes on two cores.

python -m recipes.demo [--workdir DIR]

Pretrains a small Vision Transformer on 8x8 images, fine-tunes it on 16x16 with its
position embeddings resized, exports a SavedModel, and classifies held-out images with
that in a process without Keras.
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
from recipes import digits, pictures

SEED = 0
BATCH_SIZE = 64
PRETRAIN_SIZE, FINETUNE_SIZE = 8, 16
PRETRAIN_EPOCHS, FINETUNE_EPOCHS = 60, 20


def main():
    workdir = parse_workdir()
    keras.utils.set_random_seed(SEED)
    print(f"Backend: {keras.backend.backend()}. Everything goes to {workdir}/")
    model = keras_vit.ViT(
        input_shape=(PRETRAIN_SIZE, PRETRAIN_SIZE, 1),
        patch_size=2,
        hidden_dim=64,
        num_layers=4,
        num_heads=4,
        mlp_dim=128,
        classes=digits.CLASSES,
        representation_size=64,
        dropout_rate=0.1,
        name="vit_digits",
    )
    curves, seconds = {}, 0.0
    stage = f"pretraining, {PRETRAIN_SIZE}x{PRETRAIN_SIZE}"
    curves[stage], spent = train(model, stage, PRETRAIN_EPOCHS, pretraining_optimizer)
    seconds += spent
    report(model, stage, workdir / "pretrained.keras")

    model = model.resized((FINETUNE_SIZE, FINETUNE_SIZE, 1))
    stage = f"fine-tuning, {FINETUNE_SIZE}x{FINETUNE_SIZE}"
    curves[stage], spent = train(model, stage, FINETUNE_EPOCHS, finetuning_optimizer)
    seconds += spent
    report(model, stage, workdir / "finetuned.keras")
    print(f"Training took {seconds:.0f} s.")

    version = keras_vit.export.saved_model(model, workdir / "served", verbose=False)
    artefact("SavedModel", version)
    classify_without_keras(model, version, workdir)
    pictures.learning_curves(curves, workdir / "curves.png")
    artefact("learning curves", workdir / "curves.png")
    images, labels = digits.load(FINETUNE_SIZE)["test"]
    probabilities = np.load(workdir / "predictions.npz")["probabilities"]
    pictures.predictions(images, labels, probabilities, workdir / "predictions.png")
    artefact("sheet of predictions", workdir / "predictions.png")


def parse_workdir():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    default = pathlib.Path("runs", f"demo-{keras.backend.backend()}-{now}")
    parser.add_argument("--workdir", type=pathlib.Path, default=default)
    workdir = parser.parse_args().workdir
    if workdir.exists():
        parser.error(f"{workdir} exists; choose a new --workdir.")
    workdir.mkdir(parents=True)
    return workdir


def pretraining_optimizer(steps):
    """Adam, cosine schedule with warm-up, decoupled weight decay, clipping at 1."""
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=3e-3, warmup_steps=steps // 10
    )
    return keras.optimizers.AdamW(schedule, weight_decay=0.05, global_clipnorm=1.0)


def finetuning_optimizer(steps):
    """The paper's: SGD with momentum, cosine schedule, no weight decay, clipping at 1."""
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=0.03, warmup_steps=steps // 10
    )
    return keras.optimizers.SGD(schedule, momentum=0.9, global_clipnorm=1.0)


def train(model, stage, epochs, optimizer):
    """Fits the model; returns the history and the seconds it took."""
    height, width, _ = model.input_shape[1:]
    print(f"\n{stage.capitalize()}: {height // 2}x{width // 2} patches of 2x2 pixels")
    data = digits.load(height)
    training = digits.dataset(*data["train"], model.preprocessor, BATCH_SIZE, SEED)
    validation = digits.dataset(*data["validation"], model.preprocessor, BATCH_SIZE)
    model.compile(
        optimizer=optimizer(epochs * training.cardinality().numpy()),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=True,
    )
    start = time.monotonic()
    history = model.fit(training, validation_data=validation, epochs=epochs)
    return history.history, time.monotonic() - start


def report(model, stage, path):
    """Prints the accuracy on held-out images and saves the model."""
    test = digits.load(model.input_shape[1])["test"]
    test = digits.dataset(*test, model.preprocessor, BATCH_SIZE)
    accuracy = model.evaluate(test, verbose=0, return_dict=True)["accuracy"]
    print(f"Test accuracy after {stage}: {accuracy:.2%}")
    model.save(path)
    artefact("model", path)


def classify_without_keras(model, version, workdir):
    """Runs the SavedModel in another process and compares it with Keras."""
    images, labels = digits.load(FINETUNE_SIZE)["test"]
    np.savez(workdir / "images.npz", images=images)
    arguments = [version, workdir / "images.npz", workdir / "predictions.npz"]
    print(flush=True)
    subprocess.run([sys.executable, "-m", "recipes.classify", *arguments], check=True)
    served = np.load(workdir / "predictions.npz")["probabilities"]
    expected = model.predict(model.preprocessor(images), verbose=0)
    print(
        f"Test accuracy of the SavedModel: {np.mean(served.argmax(1) == labels):.2%}; "
        f"largest difference from Keras: {np.abs(served - expected).max():.1e}"
    )


def artefact(what, path):
    print(f"  {what}: {path}")


if __name__ == "__main__":
    main()
