"""Earlier name of `keras-vit pretrain`."""

from recipes.moved import run

if __name__ == "__main__":
    run("pretrain")
