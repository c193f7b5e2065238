"""Earlier name of `keras-vit evaluate`."""

from recipes.moved import run

if __name__ == "__main__":
    run("evaluate")
