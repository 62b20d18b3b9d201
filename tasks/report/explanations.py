"""What the pictures of a report and the figures of the concept geometry mean: what each is, its range, what is good."""

# The figures as `models.geometry` names them; C concepts of H dimensions, n texts.
FIGURES = {
    "nuclear_rank_of_mean": (
        "The log's Eff. Rank: sum over largest singular value of the mean concept matrix. 1 to min(C, H). "
        "High does not mean healthy: constant concepts reach C."
    ),
    "effective_rank_of_mean": (
        "Directions of the mean concept matrix, by the entropy of its singular values. 1 to min(C, H). High "
        "is diverse, but constant concepts are diverse too."
    ),
    "effective_rank_per_sample_mean": (
        "Directions that the concepts of one text use, mean over texts. 1 to min(C, H). High is diverse; near"
        " 1 all concepts of a text are alike."
    ),
    "effective_rank_per_sample_p5": "The same for the poorest 5 % of texts. Good is close to the mean.",
    "effective_rank_per_sample_p95": "The same for the richest 5 % of texts.",
    "effective_rank": "Another name of the nuclear rank of mean, kept for earlier logs.",
    "effective_rank_normalized": "The nuclear rank of mean over min(C, H). 0 to 1.",
    "global_effective_rank": "Another name of the nuclear rank of mean, kept for earlier logs.",
    "dimensions_for_95_variance": (
        "Directions that hold 95 % of the mean concept matrix (squared singular values). 1 to min(C, H). High"
        " is diverse."
    ),
    "top_1_variance_ratio": (
        "Share of the mean concept matrix in its largest direction. 0 to 1. Low is good; near 1 one direction is all."
    ),
    "top_5_variance_ratio": "The same of its five largest directions. 0 to 1. Low is good.",
    "max_concept_similarity": "Largest cosine of two concepts of a text. -1 to 1. Near 1 two concepts are copies.",
    "mean_concept_similarity": (
        "Mean absolute cosine of two concepts of a text. 0 to 1. Near 0 is good; near 1 all concepts are alike."
    ),
    "std_concept_similarity": "Spread of the cosines. 0 to 1. Neither end is good by itself.",
    "uniformity_loss": (
        "How unevenly the concepts of a text lie on the sphere. 0 to 1. Low is good; 1: all in one place."
    ),
    "isotropy": "Smallest over largest variance of a direction. 0 to 1. High is even in all directions.",
    "participation_ratio": "Directions in which the concepts of all texts spread. 1 to H. High is diverse.",
    "participation_ratio_normalized": "The participation ratio over H. 0 to 1. High is diverse.",
    "mean_dimension_std": (
        "Mean spread of a dimension over all concepts and texts. 0 or more. Near 0 the dimensions are unused."
    ),
    "min_dimension_std": "Spread of the least used dimension. 0 or more.",
    "max_dimension_std": "Spread of the most used dimension. Much above the mean, one dimension dominates.",
    "collapsed_dimensions": "Dimensions with a spread under 0.0001. 0 to H. 0 is good.",
    "collapsed_dimensions_ratio": "The same over H. 0 to 1. 0 is good.",
    "mean_concept_norm": "Mean length of a concept vector. Judge it by its spread.",
    "std_concept_norm": "Spread of the lengths. Large beside the mean, a few concepts dominate.",
    "min_concept_norm": "Length of the shortest concept. Near 0 a concept is unused.",
    "max_concept_norm": "Length of the longest concept. Much above the mean, it dominates.",
    "centred_effective_rank": (
        "Ways in which the concepts vary from text to text. 0 to min(C, H). High is good; 0: nothing varies, "
        "1: all slots say the same."
    ),
    "input_variance_share": (
        "Share of the concepts' variance that the text decides. 0 to 1. High is good; 0: the text decides nothing."
    ),
    "input_variance_share_slot_mean": "The same of each slot on its own, mean over slots. 0 to 1. High is good.",
    "input_variance_share_slot_min": "The same of the slot that listens least. 0 to 1. Near 0 that slot is constant.",
    "same_slot_similarity": (
        "Mean cosine of a slot's vectors of two texts. -1 to 1. Low is good; 1 is constant. A shared offset raises it."
    ),
    "same_slot_similarity_centred": "The same without the shared offset. -1 to 1. Low is good; 1 is constant.",
    "retrieval_top_1": (
        "How often the concepts of a text with tokens left out are nearest to those of the whole text. 0 to "
        "1. High is good; at chance the concepts do not tell texts apart."
    ),
    "retrieval_chance": "What guessing reaches in that search: 1 / n.",
}

# The pictures by name.
PLOTS = {
    "loss": (
        "Lower is better. The dashed line is what a model without context reaches; a held-out loss on it "
        "means that nothing contextual was learned, one far above the training loss means memorising."
    ),
    "learning_rate": "The step size of every update: what the schedule called for.",
    "gradient_norm": "The size of every gradient before clipping. Steady is good; a climb comes before a divergence.",
    "ranks": (
        "Directions that the concepts use, from 1 to the number of concepts (dashed). A fall to 1, or of the "
        "centred rank to 0, is collapse."
    ),
    "singular_values": (
        "How strong each direction of the mean concept matrix is. A slow fall uses many directions; a cliff "
        "after a few is low rank."
    ),
    "similarity": (
        "Cosine of every two concepts, from -1 to 1. Pale off the diagonal is good; a red field is a group of copies."
    ),
    "losses": (
        "Lower is better. Thin lines are training, dots are held-out text; the dashed line is what a model "
        "without context reaches."
    ),
    "swept": (
        "Each dot is a run; the line joins the means of the seeds, the bar is their spread (standard deviation)."
    ),
}
