"""The command `python -m keras_vit`, which is `keras-vit`."""

from keras_vit.cli import main

if __name__ == "__main__":
    main()
