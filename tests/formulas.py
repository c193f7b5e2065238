"""Short NumPy formulas in float64, written from the papers, not from the layers."""

import math

import numpy as np


def layer_norm(x, gamma, beta, epsilon=1e-6):
    centered = x - x.mean(-1, keepdims=True)
    return (
        centered / np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon) * gamma + beta
    )


def rms_norm(x, gamma, epsilon=1e-6):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * gamma


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu_exact(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def dense(x, w, name):
    return x @ w[f"{name}/kernel"] + w.get(f"{name}/bias", 0.0)


def attention(x, w, num_heads, bias=None, rotate=None):
    """Compute one head of one image at a time.

    bias(query) adds to the logits, and rotate(x) rotates queries or keys.
    """
    d = x.shape[-1] // num_heads
    qkv = x @ w["qkv/kernel"] + w.get("qkv/bias", 0.0)
    query, key, value = np.split(qkv, 3, axis=-1)
    query, key = (
        x if f"{name}/gamma" not in w else _heads_normalized(x, w, name, d)
        for name, x in (("query_norm", query), ("key_norm", key))
    )
    if rotate is not None:
        query, key = rotate(query), rotate(key)
    out = np.zeros_like(x)
    for image in range(len(x)):
        for head in range(num_heads):
            part = slice(head * d, (head + 1) * d)
            q, k, v = query[image, :, part], key[image, :, part], value[image, :, part]
            logits = q @ k.T / math.sqrt(d)
            if bias is not None:
                logits = logits + bias(q / math.sqrt(d))
            out[image, :, part] = softmax(logits) @ v
    return dense(_inner_norm(out, w), w, "projection")


def _heads_normalized(x, w, name, width):
    heads = x.reshape(*x.shape[:-1], -1, width)
    heads = layer_norm(heads, w[f"{name}/gamma"], w[f"{name}/beta"])
    return heads.reshape(x.shape)


def _inner_norm(x, w):
    if "inner_norm/gamma" not in w:
        return x
    return layer_norm(x, w["inner_norm/gamma"], w["inner_norm/beta"])


def mlp(x, w, activation=gelu_tanh):
    return dense(_inner_norm(activation(dense(x, w, "expand")), w), w, "contract")


def silu(x):
    return x / (1 + np.exp(-x))


def gated_mlp(x, w, activation=silu):
    gate, hidden = np.split(dense(x, w, "expand"), 2, axis=-1)
    return dense(_inner_norm(activation(gate) * hidden, w), w, "contract")


def unfold(images, kernel_size, stride, padding):
    """Cut one patch after the other, with entries ordered row, column, channel."""
    border = (padding, padding)
    x = np.pad(images, [(0, 0), border, border, (0, 0)])
    patches = [
        x[:, top : top + kernel_size, left : left + kernel_size].reshape(len(x), -1)
        for top in range(0, x.shape[1] - kernel_size + 1, stride)
        for left in range(0, x.shape[2] - kernel_size + 1, stride)
    ]
    return np.stack(patches, axis=1)


def below(w, prefix):
    return {k.removeprefix(prefix): v for k, v in w.items() if k.startswith(prefix)}


def post_norm_block(x, w, num_heads):
    y = attention(x, below(w, "attention/"), num_heads)
    y = layer_norm(y, w["attention_norm/gamma"], w["attention_norm/beta"])
    x = x + w.get("attention_scale/gamma", 1.0) * y
    y = layer_norm(mlp(x, below(w, "mlp/")), w["mlp_norm/gamma"], w["mlp_norm/beta"])
    return x + w.get("mlp_scale/gamma", 1.0) * y


def parallel_block(x, w, num_heads):
    y = layer_norm(x, w["attention_norm/gamma"], w["attention_norm/beta"])
    y = attention(y, below(w, "attention/"), num_heads) + mlp(y, below(w, "mlp/"))
    return x + w.get("attention_scale/gamma", 1.0) * y


def block(x, w, num_heads):
    y = layer_norm(x, w["attention_norm/gamma"], w["attention_norm/beta"])
    x = x + w.get("attention_scale/gamma", 1.0) * attention(
        y, below(w, "attention/"), num_heads
    )
    y = layer_norm(x, w["mlp_norm/gamma"], w["mlp_norm/beta"])
    return x + w.get("mlp_scale/gamma", 1.0) * mlp(y, below(w, "mlp/"))
