"""Earlier name of `keras-vit serve`."""

from recipes.moved import run

if __name__ == "__main__":
    run("serve")
