"""Earlier name of `keras-vit predict`."""

from recipes.moved import run

if __name__ == "__main__":
    run("predict")
