"""What the scripted model says: a table of answers, and by which words of a conversation each is chosen.

Programs read more out of an answer than its letters: an action to take, a number between brackets, rows in JSON. Each
entry is an answer that such a program can use, so that it goes on to its end. The first whose words all stand in the
conversation is said; an agent's later steps come before its earlier ones, and are told by what was said before.
"""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """An answer, and the words that must all have been said before it."""

    text: str
    words: tuple[str, ...] = ()


CALL = '{"name": "simple_sum", "parameters": {"x": 2, "y": 3}}'
"""Said to a question that comes with tools."""

_CAMPAIGN = {
    "candidates": [
        {
            "problem_addressed": "Sums take time.",
            "value_proposition": "Sums at once.",
            "usage": "Over the web.",
        }
    ],
    "markets": [
        {
            "market_description": "Schools",
            "example_products": ["abacus"],
            "capturable_market_size_dollars": "5 million",
            "market_growth_yoy": "2 %",
        }
    ],
    "audiences": [
        {
            "type": "EndUser",
            "audience": {
                "description": "Pupils",
                "user_profile": "Those who add",
                "profile_name": "Pupil",
                "demographics": ["six to ten years"],
            },
        }
    ],
    "channels": [
        {
            "name": name,
            "description": "Read by many",
            "copy_format": form,
            "pros": ["cheap"],
            "cons": ["slow"],
        }
        for name, form in (
            ("Blog", "BLOG_POST"),
            ("Mail", "EMAIL"),
            ("Threads", "TWITTER_THREAD"),
            ("Video", "VIDEO_SCRIPT"),
        )
    ],
    "strategy": "Show a sum.",
    "product_positioning": "The quickest.",
    "competitive_claim": "No abacus is as quick.",
    "review_criteria": ["Is the sum right?"],
    "title": "Five",
    "subtitle": "How to add",
    "image_description": "Two hands",
    "subject": "A sum for you",
    "attachment_descriptions": [],
    "hashtags": ["sums"],
    "mentions": [],
    "tweets": [{"tweet": "2 and 3 make 5."}],
    "description": "A film on sums",
    "tags": ["sums"],
    "thumbnail_description": "A five",
    "pros": ["short"],
    "cons": ["dry"],
    "suggestions": ["a joke"],
}
"""All that a marketing campaign asks for, in one object: each question takes out of it what it wants."""
_ROWS = [
    {"name": "Ada", "age": 36, "email": "ada@example.com", "salary": 1815.5},
    {"name": "Emmy", "age": 53, "email": "emmy@example.com", "salary": 1882.25},
]
_LANGCHAIN = "Action: the action to take, should be one of ["
_LLAMA_INDEX = "> Tool Name: shoop"
_RESEARCH = "Evaluation (sufficient/insufficient):"

LINES = (
    Line(" I now know the final answer\nFinal Answer: 2 plus 3 is 5.", (_LANGCHAIN, "Action: wikipedia\n")),
    Line(
        " I should read more.\nAction: wikipedia\nAction Input: Addition",
        (_LANGCHAIN, "Action: duckduckgo_search\n"),
    ),
    Line(" I should search.\nAction: duckduckgo_search\nAction Input: sum of two and three", (_LANGCHAIN,)),
    Line(
        "Thought: I can answer without using any more tools. I'll use the user's language to answer\nAnswer: It is 8.",
        (_LLAMA_INDEX, "Action: shoop\n"),
    ),
    Line(
        "Thought: The current language of the user is: English. I need to use a tool.\n"
        'Action: shoop\nAction Input: {"a": 2, "b": 3}',
        (_LLAMA_INDEX,),
    ),
    Line("Sufficient", (_RESEARCH, "who first wrote of sums")),
    Line("Insufficient\nNew query: who first wrote of sums", (_RESEARCH,)),
    Line("sum of 2 and 3 explained", ("return an optimized version of it",)),
    Line(json.dumps({"data": _ROWS}), ("a single key 'data' containing an array of objects",)),
    Line('{"animal": "cheetah", "speed": 118}', ("JSON format with `animal` and `speed` keys",)),
    Line("Break point: <2>\n Because a thought ends there.", ("choose one label that it is natural",)),
    Line("Here is the shortened version:\nSums are sums of parts.", ("shorten the following passage",)),
    Line("I want to look up Page [0] to see how parts are added.", ("Which page(s) would you like",)),
    Line(f"```json\n{json.dumps(_CAMPAIGN)}\n```", ("```json codeblock",)),
    Line("```md\n# Five\n\n2 and 3 make 5.\n```", ("```md\ncontent",)),
    Line("2 plus 3 is 5, for two and three more are five."),
)
