"""ONNX: the table of ops, and what turns a program into a model that any runtime of ONNX takes."""
