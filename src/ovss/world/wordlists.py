"""Words of the generated world, and ordinary ones that have nothing to do with it, in the layouts of two word lists.

WordNet's ``index.noun`` (wndb(5)) holds nouns; the English word list holds words of every kind.
"""

from __future__ import annotations

from ovss.world.classes import CLASSES, nouns

# Nouns of the idle phrases, wrong nouns and templates of ``ovss.world.captions``.
CAPTION_NOUNS = (
    "afternoon", "album", "artist", "autumn", "child", "club", "contest", "day", "download", "drawing", "family",
    "front", "holiday", "image", "internet", "morning", "museum", "office", "photo", "picture", "quality", "sale",
    "scene", "stock", "storm", "story", "television", "view", "week", "year",
)  # fmt: skip

OTHER_NOUNS = (
    "accordion", "acorn", "airport", "almond", "anchor", "ankle", "answer", "apron", "arch", "argument", "attic",
    "bakery", "bank", "barrel", "basket", "battery", "bead", "belief", "bell", "belt", "blanket", "bottle", "bread",
    "bridge", "broom", "bucket", "button", "cabbage", "cable", "calendar", "camera", "candle", "canyon", "carpet",
    "castle", "cave", "cello", "cheese", "chess", "chimney", "circus", "clock", "coat", "coin", "comet", "compass",
    "cotton", "cradle", "crane", "crown", "curtain", "cushion", "debt", "desert", "diamond", "dictionary", "dragon",
    "drum", "dust", "eagle", "elbow", "engine", "envelope", "factory", "feather", "fence", "festival", "fire_engine",
    "flag", "forest", "fork", "fountain", "freedom", "garden", "garlic", "glacier", "glove", "grammar", "guitar",
    "hammer", "harbour", "hat", "helmet", "honey", "hospital", "hot_dog", "iceberg", "island", "jacket", "jar",
    "judge", "kettle", "key", "kitchen", "ladder", "lamp", "lemon", "letter", "library", "lighthouse", "lizard", "map",
    "marble", "market", "mirror", "money", "mountain", "nail", "needle", "nest", "notebook", "oak", "ocean", "onion",
    "orchestra", "oven", "paint", "palace", "paper", "parade", "pencil", "pepper", "piano", "pillow", "pirate",
    "planet", "pocket", "pottery", "prize", "pumpkin", "puzzle", "queen", "question", "rabbit", "radio", "rail",
    "recipe", "ribbon", "river", "robot", "roof", "rope", "rumour", "sailor", "salad", "sandwich", "scarf", "school",
    "shadow", "shoe", "silver", "soup", "spoon", "stadium", "station", "suitcase", "table", "teacher", "tennis_ball",
    "theatre", "ticket", "tower", "traffic_light", "umbrella", "valley", "violin", "volcano", "wheel", "whisper",
    "window", "wolf", "zebra",
)  # fmt: skip

OTHER_WORDS = (
    "able", "about", "above", "absent", "accept", "across", "actually", "add", "admire", "afraid", "after", "again",
    "against", "agree", "all", "almost", "alone", "along", "already", "also", "although", "always", "amaze", "among",
    "ancient", "and", "angry", "another", "any", "appear", "around", "arrive", "as", "ask", "at", "avoid", "awake",
    "away", "bad", "bake", "be", "beautiful", "because", "become", "before", "begin", "behind", "believe", "below",
    "beneath", "beside", "better", "between", "beyond", "big", "bitter", "bold", "borrow", "both", "brave", "break",
    "brief", "bright", "brighten", "bring", "broad", "build", "busy", "but", "buy", "by", "calm", "can", "careful",
    "carry", "catch", "certain", "cheap", "cheerful", "choose", "clean", "clear", "clever", "climb", "close", "cold",
    "collect", "come", "common", "compare", "complain", "cook", "correct", "could", "count", "cover", "cruel", "cry",
    "curious", "cut", "damp", "dance", "dark", "dear", "decide", "deep", "deliver", "depend", "describe", "difficult",
    "dirty", "discover", "do", "double", "down", "dream", "drink", "drive", "dry", "during", "each", "eager", "early",
    "easily", "eat", "either", "elegant", "empty", "enjoy", "enough", "enter", "equal", "escape", "even", "ever",
    "every", "exact", "explain", "fair", "fall", "famous", "far", "fast", "feed", "feel", "few", "fierce", "find",
    "fix", "flat", "follow", "for", "forget", "forgive", "free", "frequent", "fresh", "from", "full", "gather",
    "gentle", "get", "give", "glad", "go", "good", "grand", "great", "grow", "happen", "happy", "hard", "hardly",
    "harsh", "have", "he", "hear", "heavy", "help", "her", "here", "hide", "high", "him", "hold", "honest", "hope",
    "how", "huge", "humble", "hungry", "hurry", "if", "imagine", "important", "improve", "in", "include", "inside",
    "instead", "into", "invent", "it", "jump", "just", "keen", "keep", "kind", "know", "large", "last", "late",
    "laugh", "lazy", "learn", "least", "leave", "less", "let", "lift", "like", "listen", "little", "live", "lively",
    "lonely", "long", "lose", "loud", "lovely", "low", "lucky", "make", "many", "marry", "may", "mean", "measure",
    "melt", "mend", "might", "mild", "modern", "more", "most", "move", "much", "must", "my", "narrow", "near",
    "nearly", "neat", "never", "new", "next", "nice", "no", "noisy", "nor", "not", "now", "obey", "odd", "of", "off",
    "often", "old", "on", "once", "only", "open", "or", "other", "our", "out", "over", "pale", "perhaps", "plain",
    "pleasant", "polite", "poor", "possible", "pour", "pretty", "promise", "proud", "pull", "push", "quick", "quiet",
    "quite", "rapid", "rare", "rather", "reach", "read", "ready", "receive", "remain", "remember", "repeat", "rich",
    "ride", "ripe", "rough", "round", "run", "sad", "safe", "same", "say", "secret", "see", "seem", "send", "several",
    "shall", "sharp", "she", "shiny", "short", "should", "shy", "simple", "since", "sing", "sit", "sleep", "slim",
    "slow", "small", "smile", "smooth", "so", "soft", "some", "soon", "speak", "steep", "still", "strange", "strong",
    "sudden", "sunny", "swim", "tall", "teach", "tell", "than", "that", "the", "their", "then", "there", "they",
    "thick", "thin", "think", "this", "though", "through", "throw", "tidy", "tiny", "tired", "to", "together", "too",
    "toward", "true", "try", "ugly", "under", "understand", "until", "up", "upon", "useful", "usual", "vast", "very",
    "wait", "warm", "we", "weak", "weekly", "well", "wet", "when", "where", "which", "while", "whole", "why", "wide",
    "wild", "will", "wise", "with", "without", "wonder", "worry", "would", "write", "yet", "you", "young",
)  # fmt: skip

LICENCE = (
    "This list of nouns belongs to a generated world. It has the layout of",
    "WordNet's index.noun, and nothing else of WordNet: the nouns are our own.",
    "It comes under the licence of the project that generated it.",
)


def world_nouns() -> tuple[str, ...]:
    """Every noun that captions of the world may hold, sorted."""
    return tuple(sorted({noun for name in CLASSES for noun in nouns(name)} | set(CAPTION_NOUNS)))


def index_noun() -> bytes:
    """The nouns as WordNet's ``index.noun``: a numbered licence, then a line a lemma, each ending in two blanks.

    Fields: lemma, part of speech, senses, kinds of pointers, the pointers, senses, ranked senses, offset of the synset.
    """
    licence = [f"  {number} {line}  " for number, line in enumerate(LICENCE, start=1)]
    lemmas = sorted({*world_nouns(), *OTHER_NOUNS})
    entries = [f"{lemma} n 1 1 @ 1 0 {1740 + 137 * number:08d}  " for number, lemma in enumerate(lemmas)]
    return "".join(f"{line}\n" for line in (*licence, *entries)).encode("ascii")


def words_alpha() -> bytes:
    """The nouns of one word and the other words, sorted, a word a line, with the original's CR LF ends."""
    words = {word for word in (*world_nouns(), *OTHER_NOUNS, *OTHER_WORDS) if "_" not in word}
    return "".join(f"{word}\r\n" for word in sorted(words)).encode("ascii")


def word_archives() -> dict[str, dict[str, bytes]]:
    """Archives of word lists: file name -> members."""
    return {"wordnet.zip": {"wordnet/index.noun": index_noun()}, "words_alpha.zip": {"words_alpha.txt": words_alpha()}}
