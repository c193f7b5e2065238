"""Earlier name of `keras-vit export`."""

from recipes.moved import run

if __name__ == "__main__":
    run("export")
