"""Build the notebooks in examples/ from their sources, with outputs.

python -m recipes.notebooks [NAME ...] [--set PARAMETER=VALUE ...] [--note TEXT]

Every `examples/NAME.py`, in jupytext's percent format, becomes `examples/NAME.ipynb`. A
notebook runs in an empty directory. `--set` replaces a parameter while it runs, for
example to use a local file instead of a download; the notebook keeps the value of its
source, and `--note` tells the reader what was used.
"""

import argparse
import base64
import datetime
import io
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping

import keras

import keras_vit

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
# Seconds that a cell may take.
CELL_TIMEOUT = 600
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
# Tag of the cell, not in the source, that says how the outputs were made.
OUTPUTS = "outputs"
PARAMETERS = re.compile(
    r'(?<=^# %% tags=\["parameters"\]\n).*?(?=^# %%|\Z)', re.MULTILINE | re.DOTALL
)
NATIVE_LOG = re.compile(r"$|WARNING: All log messages before absl|WARNING:absl:|I0000 ")
ASSIGNMENT = re.compile(r"^(\w+) = .*$", re.MULTILINE)


def main():
    arguments = parse_arguments()
    for path in arguments.paths:
        print(f"{path.stem}: running ...", flush=True)
        built = path.with_suffix(".ipynb")
        built.write_text(build(path.read_text(), arguments.parameters, arguments.note))
        print(f"  {built}: {built.stat().st_size / 1000:.0f} kB", flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--set", action="append", default=[], metavar="PARAMETER=VALUE")
    parser.add_argument("--note", default="", help="a sentence about the parameters")
    arguments = parser.parse_args()
    paths = {path.stem: path for path in sources()}
    if unknown := sorted(set(arguments.names) - set(paths)):
        parser.error(f"no notebook {', '.join(unknown)}; there are {', '.join(paths)}.")
    arguments.paths = [paths[name] for name in arguments.names or paths]
    arguments.parameters = dict(text.partition("=")[::2] for text in arguments.set)
    known = {name for path in arguments.paths for name in parameters(path.read_text())}
    if unknown := sorted(set(arguments.parameters) - known):
        parser.error(f"no parameter {', '.join(unknown)}; there are {', '.join(known)}.")
    return arguments


def sources() -> list[pathlib.Path]:
    """Return the paths of the sources of all notebooks, sorted."""
    return sorted(EXAMPLES.glob("*.py"))


def parameters(source: str) -> list[str]:
    """Return the names that the cell tagged `parameters` assigns, if there is one.

    Args:
        source: text of a source.
    """
    cell = PARAMETERS.search(source)
    return ASSIGNMENT.findall(cell[0]) if cell else []


def with_parameters(source: str, values: Mapping[str, str]) -> str:
    """Replace values in the cell tagged `parameters` of a source.

    Args:
        source: text of a source.
        values: new values by the name of the parameter. Names that the source does not
            have are ignored, because one set of values serves several notebooks.

    Returns:
        The changed text.
    """

    def replace(line):
        name = line[1]
        return f"{name} = {values[name]!r}" if name in values else line[0]

    return PARAMETERS.sub(lambda cell: ASSIGNMENT.sub(replace, cell[0]), source)


def linked(values: Mapping[str, str], directory: pathlib.Path) -> dict[str, str]:
    """Link files and folders among the values into a directory.

    A notebook then prints the name of a file and not its place on this machine.

    Args:
        values: values by the name of the parameter.
        directory: directory in which the notebook will run.

    Returns:
        The values, with the name of the link instead of an existing path.
    """
    names = dict(values)
    for parameter, value in values.items():
        path = pathlib.Path(value)
        if path.exists():
            (directory / path.name).symlink_to(path.resolve())
            names[parameter] = path.name
    return names


def build(source: str, values: Mapping[str, str], note: str = "") -> str:
    """Execute a notebook.

    Args:
        source: text of the source, in the percent format.
        values: values of parameters while the notebook runs.
        note: sentence about these values.

    Returns:
        The text of the notebook, with its outputs and the cells of the source.
    """
    # From the extra `notebooks`.
    import jupytext
    import nbclient
    import nbformat

    with tempfile.TemporaryDirectory() as directory:
        local = linked(values, pathlib.Path(directory))
        notebook = jupytext.reads(with_parameters(source, local), fmt="py:percent")
        nbclient.NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT,
            kernel_name=KERNEL["name"],
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": directory}},
        ).execute()
    originals = jupytext.reads(source, fmt="py:percent").cells
    for cell, original in zip(notebook.cells, originals, strict=True):
        cell.source = original.source
        cell.metadata.pop("lines_to_next_cell", None)  # jupytext's, for writing sources
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if not is_native_log(o)]
        for output in cell.get("outputs", []):
            shrink(output)
    text = about_outputs(note if parameters(source) else "")
    about = nbformat.v4.new_markdown_cell(text, metadata={"tags": [OUTPUTS]})
    notebook.cells.insert(1, about)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    notebook.metadata = {"kernelspec": KERNEL}
    return nbformat.writes(notebook) + "\n"


def about_outputs(note: str) -> str:
    """Return the line that says how the outputs of a notebook were made.

    Args:
        note: sentence about the parameters, or "".
    """
    cores = len(os.sched_getaffinity(0))
    made = (
        f"Outputs: keras_vit {keras_vit.__version__}, {keras.backend.backend()}, "
        f"{cores} CPU core{'s' * (cores > 1)}, {datetime.date.today()}."
    )
    return f"*{made} {note}*".replace(" *", "*")


def is_native_log(output: Mapping) -> bool:
    """Return True if an output has only messages that TensorFlow logs while it loads.

    Args:
        output: output of a cell.
    """
    lines = output.get("text", "").splitlines()
    return output.get("name") == "stderr" and all(map(NATIVE_LOG.match, lines))


def shrink(output: dict) -> None:
    """Store a picture as JPEG if that is smaller than PNG.

    Args:
        output: output of a cell, which is changed in place.
    """
    from PIL import Image

    data = output.get("data", {})
    if "image/png" not in data:
        return
    file = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    image.convert("RGB").save(file, "JPEG", quality=85, optimize=True)
    jpeg = base64.b64encode(file.getvalue()).decode()
    if len(jpeg) < len(data["image/png"]):
        del data["image/png"]
        data["image/jpeg"] = jpeg


def cells(notebook: Mapping) -> list[tuple[str, str]]:
    """Return the kind and text of each cell of a notebook that is in its source.

    Args:
        notebook: a notebook, as `nbformat` or `json` reads it.
    """
    return [
        (cell["cell_type"], text(cell["source"]))
        for cell in notebook["cells"]
        if OUTPUTS not in cell["metadata"].get("tags", [])
    ]


def text(lines: str | Iterable[str]) -> str:
    """Return a text of a notebook, which may be stored as a list of lines.

    Args:
        lines: the text or its lines.
    """
    return "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
