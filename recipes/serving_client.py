"""Earlier name of `keras-vit query`."""

from recipes.moved import run

if __name__ == "__main__":
    run("query")
