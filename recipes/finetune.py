"""Earlier name of `keras-vit finetune`."""

from recipes.moved import run

if __name__ == "__main__":
    run("finetune")
