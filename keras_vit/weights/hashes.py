"""SHA-256 hashes of published checkpoints for which a public source states one."""

SHA256 = {
    # Stated on the page of the file on the Hugging Face Hub.
    "vit_ti16.deit_in1k_224": (
        "21d4764d94f6c3ffdb6da3581115a0a1ee2d505537d96883b540e54766407c9e"
    ),
    "vit_b16.deit_in1k_384": (
        "2d2054a7bea2e586426f4ab1a89bc88c665a3e6eef764dcea4bdd2653030947a"
    ),
    "vit_b16.deit3_in1k_224": (
        "9a6f0f93c19c3f6b05836231b9de6b07cc9eca1b002b30c3b5b0b77411687650"
    ),
    "vit_s8.dino_in1k_224": (
        "e1b79616ce6d1b8dc3cc0d5952b6d0958356a189122882493e665d28f20654a0"
    ),
    "vit_b16.dino_in1k_224": (
        "93181583427d6de3e18ab0e6ee4df35736cfc51a3c1bf9ae0e9b53b1316598dc"
    ),
    "vit_b8.dino_in1k_224": (
        "01be14b99784a4c0970a5703214513588daf27014e908ac7ea08967b7bd80f5f"
    ),
    "vit_b14.dinov2_lvd142m_518": (
        "55cbb5d887b336d430e649c277b85a1429e724871f9d02ac16203235886d8c7b"
    ),
    # Stated by public projects that use timm's file at a pinned revision.
    "vit_b16.augreg2_in21k_ft_in1k_224": (
        "32aa17d6e17b43500f531d5f6dc9bc93e56ed8841b8a75682e1bb295d722405b"
    ),
    "vit_s16.deit_in1k_224": (
        "1e747b4a8d0df2cfbd3c450e8c97685d867448ab0c2ddbfb34b6885f5cb23e5b"
    ),
    "vit_b16.deit_in1k_224": (
        "cd2da27b74ed7f68b599f16c77af3e1e80f01c75f9ad96029d22ce747a247e8e"
    ),
    "vit_b16.deit_distilled_in1k_224": (
        "ccc9d1bbeede1fc8609a7a7482773a35057e9f38035b9b804bced9126c5a70dc"
    ),
    "vit_b16.deit_distilled_in1k_384": (
        "f739dfae2bf3fdd4ef415fdb015966c515b9adca7de703a08365fb349fea82ca"
    ),
    "vit_s16.dino_in1k_224": (
        "8d4795b8e4e327c6d841e15a2e3e6d88c45346256a43f8cdae8c26d92c806f7a"
    ),
    "vit_s14.dinov2_lvd142m_518": (
        "04d27f3400d059fc0cfd7d17dd1909a75bf3ea8fb3eeb48b97cb99e57ee20081"
    ),
    "vit_l14.dinov2_lvd142m_518": (
        "0424a5d1b515278cba3c6640ccbeaacc41de59d3a93df0dd5e494285eea2b355"
    ),
    "vit_b14.dinov2_reg4_lvd142m_518": (
        "c24ecfb4a1d8ca79193f6b9efcffc461872a09ddac43a0931357e4802931a006"
    ),
    # Stated for several identical public copies of Google's file.
    "vit_r50b16.orig_in21k_224": (
        "ff009bf39bb4f9198b834cfe46aba2bfdaf730e933ab3e3c4b1edf4226eaafbe"
    ),
    "vit_b16.orig_in21k_ft_in1k_384": (
        "19d3f569702e80c3a19101c8a3bde16b34f0c475ce565e999cb96068a580fdbf"
    ),
}
