"""Number of floating-point operations of a Vision Transformer."""

from typing import Any


def forward(
    image_size: int,
    patch_size: int,
    hidden_dim: int,
    num_layers: int,
    mlp_dim: int,
    classes: int = 1000,
    family: str = "vit",
    **_: object,
) -> int:
    """Return the floating-point operations of a forward pass of one image.

    Only matrix products are counted, and a multiply-add counts as two operations. For
    `m = (image_size / patch_size)**2` patches, `n = m + 1` tokens (`m + 5` in DINOv3,
    which has four registers) and width `d`, the number is the sum of:

        2 m (3 patch_size**2) d                  the patch projection
        num_layers times
            2 n d (3 d)                          q, k, v
            2 n**2 d  +  2 n**2 d                the logits, the weighted sum
            2 n d d                              the projection
            2 n d mlp_dim  +  2 n mlp_dim d      the MLP
        2 d classes                              the classifier

    >>> forward(224, 16, 384, 12, 1536) / 1e9
    9.197764608
    """
    m = (image_size // patch_size) ** 2
    n, d = m + (5 if family == "dinov3" else 1), hidden_dim
    block = 2 * n * d * (3 * d) + 4 * n**2 * d + 2 * n * d * d + 4 * n * d * mlp_dim
    return 2 * m * 3 * patch_size**2 * d + num_layers * block + 2 * d * classes


def training(**sizes: Any) -> int:
    """Return the floating-point operations of a training step for one image.

    The backward pass counts as two forward passes.
    """
    return 3 * forward(**sizes)
