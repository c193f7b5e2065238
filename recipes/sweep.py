"""Earlier name of `keras-vit sweep`."""

from recipes.moved import run

if __name__ == "__main__":
    run("sweep")
