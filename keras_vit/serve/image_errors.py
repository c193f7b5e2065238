"""Messages for the codes in the `error` output of an exported model."""

IMAGE_ERRORS = {
    1: "cannot be decoded",
    2: "has too many pixels",
    3: "does not have the size that the model takes",
}
