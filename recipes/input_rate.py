"""Benchmark of the input pipeline against a bare loop that decodes and crops JPEGs.

python -m recipes.input_rate [--images 640] [--rounds 9]

Writes JPEGs of 500x375 pixels to a temporary folder and reads them alternately with a
bare loop (decode and crop, resize, batch) and with `training_batches`, in one process.
Prints images/s and their ratio to the rate of the bare loop, per second of wall time and
per second of processor time, which other programs on the machine affect less. The rate
per second of processor time is that of one core. A second table derives from it how many
cores are needed for a given number of images/s.
"""

import argparse
import itertools
import math
import pathlib
import statistics
import tempfile
import time

from keras_vit.data.augment import Augmentation
from keras_vit.data.host import tensorflow
from keras_vit.data.pipeline import training_batches
from keras_vit.data.sources import open_source
from keras_vit.layers import Preprocessor
from recipes.benchmark.tasks.machine import AREA, _jpegs, crop_and_resize

BATCH_SIZE, SIZE = 64, (224, 224)
AUGMENTATIONS = {
    "crop": Augmentation(crop_area=AREA),
    "crop, flip": Augmentation(crop_area=AREA, horizontal_flip=True),
    "crop, flip, mixup": Augmentation(crop_area=AREA, horizontal_flip=True, mixup=0.2),
    "crop, flip, cutmix": Augmentation(crop_area=AREA, horizontal_flip=True, cutmix=1.0),
    "crop, flip, randaug(2,10)": Augmentation(
        crop_area=AREA, horizontal_flip=True, randaugment="randaug(2,10)"
    ),
    "crop, flip, rand-m9-mstd0.5-inc1": Augmentation(
        crop_area=AREA, horizontal_flip=True, randaugment="rand-m9-mstd0.5-inc1"
    ),
}
# Images/s that accelerators train on.
WANTED = (1000, 3000, 8000)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=640, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(measure(folder, arguments.images, arguments.rounds))


def measure(folder, images, rounds):
    """Measure the rates of all pipelines in turns.

    Args:
        folder: directory to write the JPEGs to.
        images: int, number of JPEGs.
        rounds: int, number of measurements of each pipeline.

    Returns:
        Dict from the name of each pipeline to its pairs of images per second of wall time
        and of processor time, one pair for each round.
    """
    directory = pathlib.Path(folder, "photographs")
    directory.mkdir()
    for number, jpeg in enumerate(_jpegs(images)):
        (directory / f"{number}.jpg").write_bytes(jpeg)
    source, preprocessor = open_source(f"folder:{folder}"), Preprocessor(image_size=SIZE)
    pipelines = {"bare loop": bare_loop(source)}
    for name, augmentation in AUGMENTATIONS.items():
        pipelines[name] = training_batches(
            source, preprocessor, augmentation, BATCH_SIZE, seed=0
        )
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in pipelines}
    steps = max(1, images // BATCH_SIZE)
    for _ in range(rounds):
        for name, pipeline in pipelines.items():
            # Make a new iterator in each round: one that is kept would fill its buffers
            # while the other pipelines are measured.
            iterator = iter(pipeline.take(steps + 2))
            for _ in itertools.islice(iterator, 2):
                pass
            wall, processor = time.perf_counter(), time.process_time()
            for _ in iterator:
                pass
            wall = time.perf_counter() - wall
            processor = time.process_time() - processor
            count = steps * BATCH_SIZE
            rates[name].append((count / wall, count / processor))
    return rates


def bare_loop(source):
    tf = tensorflow()

    def read(example):
        jpeg = tf.io.read_file(example["image"])
        return crop_and_resize(jpeg, SIZE), example["label"]

    data = source.references().repeat().map(read, tf.data.AUTOTUNE)
    return data.batch(BATCH_SIZE, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def report(rates):
    print(f"{'':26}{'images/s':>16}{'images/s of processor':>28}")
    for name, pairs in rates.items():
        bare_pairs = zip(*rates["bare loop"], strict=True)
        cells = []
        for values, bare in zip(zip(*pairs, strict=True), bare_pairs, strict=True):
            # Compare within a round, because the speed of the machine may vary.
            parts = [v / b for v, b in zip(values, bare, strict=True)]
            median = statistics.median
            cells.append(f"{median(values):8.0f} {median(parts):6.1%}")
        print(f"{name:26}{cells[0]:>16}{cells[1]:>28}")
    print(f"\n{'cores for images/s of':26}" + "".join(f"{w:8}" for w in WANTED))
    for name, pairs in rates.items():
        per_core = statistics.median(processor for _, processor in pairs)
        cores = (math.ceil(wanted / per_core) for wanted in WANTED)
        print(f"{name:26}" + "".join(f"{number:8}" for number in cores))


if __name__ == "__main__":
    main()
