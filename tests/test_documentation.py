"""Completeness of the docstrings of public names, and correctness of the README."""

import contextlib
import inspect
import pathlib
import re
import shutil

import keras
import pytest

import keras_vit
import keras_vit.data
import keras_vit.training
from keras_vit.cli import COMMANDS
from keras_vit.models.bit import BIT_SIZES
from keras_vit.models.variants import HYBRID_SIZES, VIT_SIZES
from keras_vit.training import config as configs
from tests.conftest import GOLDENS
from tests.documents.stand_ins import VARIANTS, narrow_variants
from tests.export.serving import exports_here
from tests.models.test_bit import PARAMETERS as BIT
from tests.models.test_parameter_counts import T2T, TOKEN

MODULES = (
    keras_vit,
    keras_vit.callbacks,
    keras_vit.data,
    keras_vit.kernels,
    keras_vit.layers,
    keras_vit.export,
    keras_vit.training,
)
PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in MODULES
    for name in module.__all__
}


@pytest.mark.any_backend
@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_a_docstring_with_an_example(name):
    public = PUBLIC[name]
    documentation = inspect.getdoc(public)
    assert documentation
    if callable(public):
        assert "\n>>> " in documentation


@pytest.mark.any_backend
@pytest.mark.parametrize("name", [n for n, public in PUBLIC.items() if callable(public)])
def test_every_argument_is_documented(name):
    public = PUBLIC[name]
    function = public.__init__ if inspect.isclass(public) else public
    if function in (keras.layers.Layer.__init__, object.__init__):
        return
    documentation = inspect.getdoc(public)
    for argument in set(inspect.signature(function).parameters) - {"self", "kwargs"}:
        if f"{argument}=" in documentation or f"**{argument}" in documentation:
            continue
        inherited = "as for `(keras.layers.Dense|TransformerBlock)`"
        if inspect.isclass(public) and re.search(inherited, documentation, re.IGNORECASE):
            continue
        if argument == "dtype" and "in float32" in documentation:
            continue
        assert f"    {argument}: " in documentation, argument


README = pathlib.Path(__file__).parents[1] / "README.md"
MODELS = README.parent / "docs" / "models.md"


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "layers",
    [
        pytest.param(", num_layers=1", id="one layer"),  # Tracing 12 takes a minute.
        pytest.param("", id="as printed", marks=pytest.mark.slow),
    ],
)
def test_the_examples_of_the_readme_run(layers, tmp_path, monkeypatch, tensorflow):
    text = README.read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    example, checkpoint, variant, serving = blocks
    assert example.count(", classes=10") == 1
    monkeypatch.chdir(tmp_path)
    narrow = narrow_variants() if layers else contextlib.nullcontext()
    with exports_here(), narrow:
        exec(example.replace(", classes=10", f", classes=10{layers}"), {})
    shutil.copy(GOLDENS / "google_token_prelogits.checkpoint.npz", "ViT-B_16.npz")
    exec(checkpoint, {"keras_vit": keras_vit})
    exec(variant, {"keras_vit": keras_vit})
    exec(serving, {})


@pytest.mark.any_backend
def test_the_table_of_models():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", MODELS.read_text(), re.MULTILINE)
    numbers = {
        name: [int(cell.replace(",", "")) for cell in cells.split(" | ")]
        for name, cells in rows
    }
    expected = {name: [*VIT_SIZES[name], TOKEN[name]] for name in VIT_SIZES}
    assert numbers == expected | {name: [BIT[name]] for name in BIT_SIZES}


@pytest.mark.any_backend
def test_the_hybrids():
    numbers = re.findall(r"`(ViTR\w+)`\s+\(([\d,]+)", MODELS.read_text())
    counts = {name: int(count.replace(",", "")) for name, count in numbers}
    assert counts == {name: TOKEN[name] for name in HYBRID_SIZES}


@pytest.mark.any_backend
def test_the_table_of_t2t_vits():
    (table,) = re.findall(r"keras_vit.T2TViT(.*?)\n\n", MODELS.read_text(), re.DOTALL)
    numbers = re.findall(r"`(\w+)` ([\d,]+)", table)
    counts = {f"T2TViT{name}": int(count.replace(",", "")) for name, count in numbers}
    assert counts == {name: trained for name, (trained, _) in T2T.items()}


@pytest.mark.any_backend
def test_every_variant_is_listed():
    text = MODELS.read_text()
    listed = {*re.findall(r"`(\w+)`", text)}
    listed |= {f"T2TViT{name}" for name in re.findall(r"`(\w+)` [\d,]+", text)}
    names = {*VARIANTS, *BIT_SIZES}
    assert names - listed == set()
    (number,) = re.findall(r"There are (\d+) named variants", README.read_text())
    assert int(number) == len(names)


@pytest.mark.any_backend
def test_the_number_of_published_checkpoints_in_the_readme():
    (number,) = re.findall(r"more than (\d+) published", README.read_text())
    assert int(number) < len(keras_vit.checkpoints()) <= int(number) + 100


@pytest.mark.any_backend
def test_the_commands_in_the_documents_name_what_exists():
    root = README.parent
    files = [README, *root.glob("docs/*.md"), *root.glob("keras_vit/**/*.py")]
    commands = "|".join(COMMANDS)
    named = {
        what
        for file in files
        for what in re.findall(
            rf"keras-vit (?:{commands}) ([\w.]+_[\w.]+)(?= )", file.read_text()
        )
        if not what.isupper() and not what.endswith(".py")
    }
    assert len(named) > 20
    assert named - {*keras_vit.checkpoints(), *configs.names()} == set()
