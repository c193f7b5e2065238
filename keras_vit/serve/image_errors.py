"""What the codes of an export's output `error` mean."""

IMAGE_ERRORS = {
    1: "cannot be decoded",
    2: "has too many pixels",
    3: "is not of the size that the model takes",
}
