"""The course beside its notebooks: exercises, figures and widgets. dsa_core never imports it."""
