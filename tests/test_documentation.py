"""Every public name is documented: what it does, its errors, an example, its source."""

import inspect

import pytest

import keras_vit

MODULES = (keras_vit, keras_vit.layers, keras_vit.export)
PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in MODULES
    for name in module.__all__
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_a_docstring_with_an_example(name):
    public = PUBLIC[name]
    documentation = inspect.getdoc(public)
    assert documentation
    if callable(public):
        assert "\n>>> " in documentation


@pytest.mark.parametrize("name", [n for n, public in PUBLIC.items() if callable(public)])
def test_every_argument_is_documented(name):
    public = PUBLIC[name]
    function = public.__init__ if inspect.isclass(public) else public
    if inspect.isclass(public) and "__init__" not in vars(public):
        return
    documentation = inspect.getdoc(public)
    for argument in set(inspect.signature(function).parameters) - {"self", "kwargs"}:
        if f"{argument}=" in documentation or f"**{argument}" in documentation:
            continue
        if (
            issubclass(type(public), type)
            and "as for `keras.layers.Dense`" in documentation
        ):
            continue
        if argument == "dtype" and "in float32" in documentation:
            continue
        assert f"    {argument}: " in documentation, argument
