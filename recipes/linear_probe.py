"""Earlier name of `keras-vit probe`."""

from recipes.moved import run

if __name__ == "__main__":
    run("probe")
