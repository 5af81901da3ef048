"""graphc.exporters: other people's formats, both ways (ONNX), and pictures of graphs."""
