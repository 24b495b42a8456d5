"""What papers report, to be set beside what is measured."""

PUBLISHED: dict[str, dict[str, dict[int, tuple[float, int]]]] = {
    "vit_base_patch16_224.augreg2_in21k_ft_in1k": {
        "dense": {0: (85.11, 1661)},
        "rapid": {11: (84.61, 2656), 14: (84.17, 3053), 17: (82.83, 3495), 20: (77.54, 3930)},
        "tome": {11: (84.13, 2688), 14: (83.41, 3098), 17: (81.30, 3544), 20: (73.25, 3987)},
        "tofu": {11: (84.25, 2714), 14: (83.72, 3127), 17: (82.02, 3587), 20: (75.26, 4038)},
    },
    "deit_base_patch16_224.fb_in1k": {
        "dense": {0: (81.97, 1938)},
        "rapid": {11: (81.25, 2653), 14: (80.52, 3052), 17: (78.77, 3492), 20: (72.03, 3926)},
        "tome": {11: (80.59, 2693), 14: (79.42, 3104), 17: (76.38, 3553), 20: (66.47, 3998)},
        "tofu": {11: (80.98, 2710), 14: (80.23, 3128), 17: (78.24, 3586), 20: (71.03, 4038)},
    },
}
"""Top-1 in percent and img/s on one RTX 4090 with float16 autocast and batch 64, of ImageNet-1K.

Source: RAPID (arXiv 2606.08156), Table 1; its ToFu is that paper's own re-implementation.
"""
