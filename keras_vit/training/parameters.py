"""Table of learning rates and weight decays, one row per variable."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import keras

from keras_vit.text_table import aligned
from keras_vit.training.schedules import is_number

_BLOCK = re.compile(r"(?:^|/)block_(\d+)/")
# Rules for the hidden matrices of a model: the number of matrices that a kernel holds
# side by side. Patch projections, stems, heads and relative positions are not hidden.
HIDDEN_MATRICES = {
    r"/positions/": 0,
    r"(^|/)(block_\d+|pooling)/(.*/)?qkv/kernel$": 3,
    r"(^|/)pooling/key_value/kernel$": 2,
    r"(^|/)(block_\d+|pooling|transition_\d+)/.*kernel$": 1,
}


class ParameterRow(NamedTuple):
    """Training settings of one variable, a row of a `ParameterTable`.

    Attributes:
        path: path of the variable within the model.
        shape: shape of the variable.
        group: part of the model that holds the variable, the first name of its path.
        rate: factor of the learning rate.
        weight_decay: decoupled weight decay; each update first multiplies the variable by
            `1 - learning rate * rate * weight_decay`.
        matrices: number of hidden matrices that the variable holds side by side, such as
            3 for a fused QKV kernel, or 0 if it is not a hidden matrix. Only `Muon` uses
            it.
        first_update: number of updates of the optimizer before the first one of the
            variable. It is above 0 for variables that were frozen at first, whose Adam
            moments must be corrected as those of a new optimizer. It is not printed.

    Example:

    >>> from keras_vit.training import ParameterRow
    >>> ParameterRow("norm/gamma", (16,), "norm", rate=1.0, weight_decay=0.0).group
    'norm'
    """

    path: str
    shape: tuple[int, ...]
    group: str
    rate: float
    weight_decay: float
    matrices: int = 0
    first_update: int = 0


class ParameterTable(tuple[ParameterRow, ...]):
    """Table with a `ParameterRow` per trainable variable, in the model's order.

    `parameter_table` builds a table from rules. `print` shows it in aligned columns.

    Example:

    >>> from keras_vit.training import ParameterRow, ParameterTable
    >>> print(ParameterTable([ParameterRow("norm/gamma", (16,), "norm", 1.0, 0.0)]))
    variable    shape  group  rate  weight decay  matrices
    norm/gamma  16     norm   1     0             0
    """

    def __str__(self):
        cells = [("variable", "shape", "group", "rate", "weight decay", "matrices")]
        for path, shape, group, rate, decay, matrices, _ in self:
            numbers = (f"{rate:.6g}", f"{decay:.6g}", str(matrices))
            cells.append((path, "x".join(map(str, shape)), group, *numbers))
        return "\n".join(aligned(cells))


def parameter_table(
    model: keras.Model,
    weight_decay: float = 0.0,
    decayed: str | Iterable[str] = "kernel$",
    layer_decay: float | None = None,
    rates: Mapping[str, float] | None = None,
    peak_learning_rate: float | None = None,
    matrices: Mapping[str, int] | None = None,
) -> ParameterTable:
    """Build the table of learning rates and weight decays, one row per variable.

    Rules are regular expressions, searched for in the variable's path within the model
    (`model.weights_by_path()`). Frozen variables have no row. To freeze variables, set
    `trainable = False` before building the table, which also saves their gradients and
    optimizer state; a rate of 0 is not allowed.

    Args:
        model: a built model.
        weight_decay: weight decay of the variables that match `decayed`. It is AdamW's
            decoupled decay, scaled by the learning rate and the variable's own rate.
        decayed: rule or rules for the variables that decay. By default only kernels
            decay, not biases, norms, tokens, positions or LayerScale.
        layer_decay: None, or the factor between the rate of a layer and that of the layer
            above. With `n` blocks, `block_i` has the rate `layer_decay ** (n - i)`;
            everything before the blocks (stem, patches, tokens, positions) has
            `layer_decay ** (n + 1)`; everything after them (norm, pooling, head) has 1.
        rates: None, or a dict from rule to factor of the learning rate, such as
            `{"^classifier/": 10.0}` for a faster head. The first rule that matches a
            variable applies, multiplied by the rate that results from `layer_decay`.
        peak_learning_rate: None, or the peak of the schedule, to use big_vision's weight
            decay, which is scaled only by the shape of the schedule: at the peak, an
            update multiplies by `1 - weight_decay`, whatever the learning rate and the
            variable's rate are. The table holds the equivalent AdamW decay.
        matrices: None, or a dict from rule to the number of hidden matrices that a kernel
            holds side by side, for `Muon`. The first rule that matches a kernel of two
            axes applies; all other variables have 0. By default the kernels of the
            blocks and of attention pooling are hidden matrices, a fused QKV kernel holds
            3 of them and the `expand` of a gated MLP 2. These rules need not match.

    Returns:
        A `ParameterTable` for the argument `parameters` of the optimizers.

    Raises:
        ValueError: a rule matches no variable that an earlier rule has not matched; a
            number is out of its range; a kernel cannot be split into its `matrices`;
            `layer_decay` is set for a model without blocks; the model is not
            built or entirely frozen.

    Example:

    >>> import keras_vit
    >>> from keras_vit.training import parameter_table
    >>> model = keras_vit.ViTTi16(input_shape=(32, 32, 3), classes=10, num_layers=2)
    >>> table = parameter_table(model, weight_decay=0.05, layer_decay=0.75)
    >>> table[-3:]
    (ParameterRow(path='norm/beta', shape=(192,), group='norm', rate=1.0,
    weight_decay=0.0, matrices=0, first_update=0), ParameterRow(path='classifier/kernel',
    shape=(192, 10), group='classifier', rate=1.0, weight_decay=0.05, matrices=0,
    first_update=0), ParameterRow(path='classifier/bias', shape=(10,),
    group='classifier', rate=1.0, weight_decay=0.0, matrices=0, first_update=0))

    Reference: layer-wise rates: BEiT (arXiv:2106.08254), MAE (arXiv:2111.06377) appendix
    A; weight decay: arXiv:1711.05101 and big_vision's `optim.py`.
    """
    rates = {} if rates is None else rates
    _check_numbers(weight_decay, layer_decay, rates, peak_learning_rate)
    weights, variables = _trainable(model)
    hidden = hidden_matrices(weights, matrices)
    decayed = [decayed] if isinstance(decayed, str) else decayed
    # Without decay, the rules need not match: perhaps only the norms are trainable.
    decay_rules = _first_rules(decayed, variables, "decayed") if weight_decay else {}
    rate_rules = _first_rules(rates, variables, "rates")
    layer_rates = _layer_rates(list(weights), layer_decay)
    rows = []
    for path, variable in variables.items():
        rate = float(layer_rates[path] * rates.get(rate_rules.get(path), 1.0))
        decay = float(weight_decay if path in decay_rules else 0.0)
        if peak_learning_rate is not None:
            decay /= peak_learning_rate * rate
        group = path.split("/", 1)[0]
        shape, number = tuple(variable.shape), hidden.get(path, 0)
        rows.append(ParameterRow(path, shape, group, rate, decay, number))
    return ParameterTable(rows)


def _trainable(model):
    """Return dicts from path to weight and from path to trainable variable."""
    by_path = getattr(
        model, "weights_by_path", lambda: {w.path: w for w in model.weights}
    )
    weights = by_path()
    paths = {id(weight): path for path, weight in weights.items()}
    variables = {paths[id(v)]: v for v in model.trainable_variables}
    if not variables:
        raise ValueError(
            f"The model {model.name!r} has no trainable variables: it is not built, or "
            "frozen (trainable = False)."
        )
    return weights, variables


def hidden_matrices(
    weights: Mapping[str, keras.Variable], rules: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return a dict from path to the number of hidden matrices of a kernel.

    Args:
        weights: dict from path to variable, of the whole model.
        rules: as the argument `matrices` of `parameter_table`.

    Raises:
        ValueError: a number is negative or does not divide the width of its kernel.
    """
    found = {}
    for path, weight in weights.items():
        if len(weight.shape) != 2:
            continue
        items = (HIDDEN_MATRICES if rules is None else rules).items()
        number = next((n for rule, n in items if re.search(rule, path)), 0)
        below = weights.get(re.sub(r"expand/kernel$", "contract/kernel", path))
        if rules is None and number == 1 and below is not None and below is not weight:
            # The kernel of a gated MLP holds the gate and the hidden layer.
            number = max(weight.shape[1] // below.shape[0], 1)
        if (
            not isinstance(number, int)
            or number < 0
            or (number and weight.shape[1] % number)
        ):
            raise ValueError(
                f"matrices: the kernel {path!r} {tuple(weight.shape)} cannot be split "
                f"into {number!r} matrices along its last axis. Use 0 or a divisor of "
                f"{weight.shape[1]}."
            )
        if number:
            found[path] = number
    return found


def _check_numbers(weight_decay, layer_decay, rates, peak_learning_rate):
    """Raise a `ValueError` if an argument of `parameter_table` is out of its range."""
    if not is_number(weight_decay) or weight_decay < 0:
        raise ValueError(
            f"weight_decay must be a number, 0 or more; received {weight_decay!r}."
        )
    if layer_decay is not None and not (is_number(layer_decay) and 0 < layer_decay <= 1):
        raise ValueError(
            "layer_decay must be None or a number above 0 and at most 1; received "
            f"{layer_decay!r}."
        )
    factors: dict[str, Any] = {f"rates[{rule!r}]": rate for rule, rate in rates.items()}
    if peak_learning_rate is not None:
        factors["peak_learning_rate"] = peak_learning_rate
    for name, factor in factors.items():
        if not is_number(factor) or factor <= 0:
            raise ValueError(
                f"{name} must be a number above 0; received {factor!r}. To freeze "
                "variables, set trainable = False on their layers."
            )


def _first_rules(rules, paths, argument):
    """Return a dict from path to the first rule that matches it."""
    found = {}
    for rule in rules:
        new = [path for path in paths if path not in found and re.search(rule, path)]
        if not new:
            raise ValueError(
                f"The rule {rule!r} of {argument} finds no trainable variable that no "
                f"rule before it found. There are {len(paths)}: {', '.join(paths)}."
            )
        found.update(dict.fromkeys(new, rule))
    return found


def _layer_rates(paths, layer_decay):
    """Return a dict from path to factor; `paths` must be in the order of data flow."""
    if layer_decay is None:
        return dict.fromkeys(paths, 1.0)
    blocks = [_BLOCK.search(path) for path in paths]
    numbers = [int(block[1]) for block in blocks if block]
    if not numbers:
        raise ValueError(
            "layer_decay needs a model of blocks, with weights whose paths begin with "
            f"block_0, block_1 and so on; received one of {', '.join(paths)}."
        )
    top = max(numbers) + 2
    depths, below = {}, 0
    for path, block in zip(paths, blocks, strict=True):
        # After the first block, weights outside the blocks belong above all blocks.
        depth = int(block[1]) + 1 if block else below
        below = top if block else below
        depths[path] = depth
    return {path: layer_decay ** (top - depth) for path, depth in depths.items()}
