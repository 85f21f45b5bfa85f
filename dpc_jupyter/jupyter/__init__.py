"""The notebook's face: magics, and answers drawn as they come. Only this package imports IPython."""
