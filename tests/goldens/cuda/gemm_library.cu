// cublas, operands rounded to tf32
// cublas tf32: b of 500 x 300 x 400: read 1 + 0 by (200000, 1, 500), read 0 + 0 by (120000, 1, 400), write 0 + 0 by (150000, 300, 1)
// workspace 0


