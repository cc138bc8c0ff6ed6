"""What tells who a patient or a doctor is, found in English and Chinese text by rule: names, dates,
contacts, numbers, places.

The kinds follow the identifiers of the US HIPAA Safe Harbor list (45 CFR 164.514(b)(2)) as far as
they occur in running text: names are found by what stands before them (a title, `Patient name:`),
never alone. A year alone is no identifier.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|"
    r"Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_DAY = r"(?:3[01]|[12]\d|0?[1-9])(?:st|nd|rd|th)?"
_YEAR = r"(?:19|20)\d\d"
_MONTH_NUMBER, _DAY_NUMBER = r"(?:1[0-2]|0?[1-9])", r"(?:3[01]|[12]\d|0?[1-9])"
# A first word that no name is, though it starts a sentence or a title of its own.
_NOT_A_NAME = (
    r"(?!(?:Please|Can|Could|What|Why|When|Where|How|Who|Is|Are|Am|Do|Does|Did|My|The|This|That|There|These|It|He|She|We|You|"
    r"They|I|Hello|Hi|Thanks?|"
    r"And|But|Or|If|In|On|At|For|From|With|After|Before|Not|No|Yes|Should|Would|Will|Have|Has|Had|Said|Told|Practitioner|"
    r"Surgeon|Specialist|Online|"
    r"Consultation|Patient|Emeritus|Chat|Advice|Answer|Reply|Visit|Sir|Madam|Doctor|Dr|Now|Also|So|Let|Since|Recently|Today|"
    r"Yesterday|Last|As|Kindly|"
    r"Regarding|About|Any|Some|Your|His|Her|Our|Their|Good|Dear|Need|Want|Okay|OK|Oh|DOB|MRN|AGE|SEX|MD|ID|Age|Sex|Sure|"
    r"Alright|Great|Right|Well)\b)"
)
_CAPITALIZED_WORD = r"[A-Z][a-z'’]+(?:-?[A-Z][a-z'’]+)*"
_NAME = (
    rf"{_NOT_A_NAME}(?:(?:[A-Z]\.\s?){{1,3}})?(?:{_CAPITALIZED_WORD}|[A-Z]{{3,}})(?:[ \t](?:[A-Z]\.[ \t]*)?(?:van"
    r" |de |von |bin |"
    rf"al-)?{_NOT_A_NAME}(?:{_CAPITALIZED_WORD}|[A-Z]{{3,}})){{0,2}}"
)
# Surnames that are no part of common words before a title; 何, 任, 高, 白, 许, 向, 周 and others are left
# out for that reason.
_SURNAME = "王李张刘陈杨赵黄吴徐孙朱郭林罗郑梁谢宋唐邓韩冯曹彭蔡潘袁董苏吕魏蒋杜丁沈姚卢傅钟姜崔谭廖范汪陆贾韦邱侯邹熊孟秦薛阎雷黎贺龚"
_TITLE_ZH = "主任医师|副主任|主任|医生|医师|大夫|教授|护士长|护士|院长|先生|女士|小姐|阿姨|大爷"


class IdentifierRule(NamedTuple):
    """A kind of identifier: what it looks like (`x` is the part to be replaced), and what before it
    rules it out.
    """

    kind: str
    pattern: re.Pattern[str]
    exclude: re.Pattern[str] | None = None
    digit_range: tuple[int, int] = (0, 99)  # fewest and most digits in `x`


def _compile_rule(
    kind: str,
    pattern: str,
    *,
    exclude: str | None = None,
    digit_range: tuple[int, int] = (0, 99),
    case_sensitive: bool = False,
) -> IdentifierRule:
    flags = re.NOFLAG if case_sensitive else re.IGNORECASE
    return IdentifierRule(
        kind,
        re.compile(pattern, flags),
        None if exclude is None else re.compile(exclude, re.IGNORECASE),
        digit_range,
    )


_NUMBER_LABEL = (
    r"MRN|UHID|SSN|DOB|medical record(?:"
    r" (?:number|no))?|(?:patient|hospital|chart|case|study|encounter|visit|account|"
    r"insurance|policy|passport|member|"
    r"beneficiary|NHS|medicare|medicaid|licen[cs]e|registration|social"
    r" security|serial|accession|admission|"
    r"health plan)[ -]?(?:id|numbers?|nos?|#)|accession"
)
RULES = (
    _compile_rule("url", r"(?P<x>(?:https?://|www\.)[^\s<>()\[\]\"'，。；]+[^\s<>()\[\]\"'，。；.,;:!?])"),
    _compile_rule("email", r"(?P<x>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)"),
    _compile_rule("id", r"(?<![\d.])(?P<x>[0-2](?:\.\d+){5,})(?![\d.])"),
    _compile_rule("id", r"(?<!\d)(?P<x>[1-9]\d{5}(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dX])(?!\d)"),
    _compile_rule("id", r"(?<![\d-])(?P<x>\d{3}-\d{2}-\d{4})(?![\d-])"),
    _compile_rule(
        "id",
        rf"\b(?:{_NUMBER_LABEL})\.?\s*(?:is|was|[:#=：])*\s*#?\s*(?P<x>[A-Z]{{0,4}}[- ]?\d[A-Z0-9/-]*\d)\b",
        exclude=r"genbank|\bGEO\b|NCBI|\bPDB\b|EMBL|uniprot|database|sequence|GSE|dbSNP|ensembl",
        digit_range=(4, 20),
    ),
    _compile_rule("id", r"(?:病历号|住院号|门诊号|登记号|检查号|影像号|病案号|就诊卡号|"
        r"身份证号?码?|医保卡?号|床号)\s*(?:为|是|[:：])?\s*(?P<x>[A-Za-z]{0,3}\d[A-Za-z\d-]{1,20})"),
    _compile_rule("date", rf"(?<![\w.])(?P<x>{_YEAR}([-/.]){_MONTH_NUMBER}\2{_DAY_NUMBER})(?![\d.]?\d)"),
    _compile_rule("date", rf"(?<![\d./-])(?P<x>(?:{_MONTH_NUMBER}([-/.]){_DAY_NUMBER}|{_DAY_NUMBER}([-/.]){_MONTH_NUMBER})(?:\2|\3){_YEAR})(?!\d)"),
    _compile_rule("date", rf"(?<![\d./-])(?P<x>(?:{_MONTH_NUMBER}/{_DAY_NUMBER}|{_DAY_NUMBER}/{_MONTH_NUMBER})/\d\d)(?![\d/])"),
    _compile_rule("date", rf"(?<!\d)(?P<x>{_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))(?!\d)"),
    _compile_rule("date", rf"\b(?P<x>{_DAY}(?: of)?[ -]{_MONTH}(?:,?[ -]{_YEAR})?)\b", case_sensitive=True),
    _compile_rule("date", rf"\b(?P<x>{_MONTH} {_DAY}(?:,? {_YEAR})?)\b(?!\s*(?:patients|cases|%|mg|ml))", case_sensitive=True),
    _compile_rule("date", rf"\b(?P<x>{_MONTH},?[ -]{_YEAR})\b", case_sensitive=True),
    _compile_rule("date", rf"(?P<x>{_YEAR}\s?年\s?{_MONTH_NUMBER}\s?月(?:\s?{_DAY_NUMBER}\s?[日号])?|(?<!\d){_MONTH_NUMBER}\s?月\s?{_DAY_NUMBER}\s?[日号])"),
    _compile_rule(
        "phone",
        r"\b(?:tel|phone|telephone|fax|mobile|cell|pager|whatsapp|call|contact|helpline|ph)\b\.?\s*(?:no|number|us|me|at|"
        r"on)*\.?\s*[:：#]?\s*(?P<x>[+(]?\d[\d\s().-]{5,18}\d)",
        digit_range=(7, 15),
    ),
    _compile_rule("phone", r"(?:电话|手机|联系方式|热线|微信)(?:号码?)?\s*(?:为|是|[:：])?\s*(?P<x>[+(]?\d[\d\s()-]{5,18}\d)", digit_range=(7, 15)),
    _compile_rule("phone", r"(?<![\d.-])(?P<x>(?:\+?1[ .-]?)?(?:\([2-9]\d\d\)\s?|[2-9]\d\d[-. ])\d{3}[-.]\d{4})(?![\d-])"),
    _compile_rule("phone", r"(?<![\w+])(?P<x>\+\d{1,3}[ .-]?(?:\(?\d{1,5}\)?[ .-]?){1,4}\d{2,5})(?!\d)", digit_range=(9, 15)),
    _compile_rule("phone", r"(?<![\d.])(?P<x>1[3-9]\d{9}|0\d{2,3}[- ]\d{7,8})(?![\d.])"),
    _compile_rule("age", r"(?<![\d.])(?P<x>9\d|1[0-2]\d)(?=[ -]?(?:years?|yrs?)[ -]?old|[ -]?y/?o\b|[ -]?year-old|\s?岁)"),
    _compile_rule("age", r"\b(?:aged?|age of)\s*[:：]?\s*(?P<x>9\d|1[0-2]\d)\b(?!\s*(?:%|[-–]|months|days|weeks|hours|min))"),
    _compile_rule(
        "address",
        r"\b(?P<x>\d{1,5}[A-Z]?,?\s(?:(?:North|South|East|West|[NSEW]\.?)\s)?(?:[A-Z][a-z]+\s){1,3}(?:Street|St\b\.?|Avenue|"
        r"Ave\b\.?|Road|Rd\b\.?|Boulevard|Blvd\b\.?|Lane|Drive|Court|Place|Square|Highway)"
        r"(?:,\s[A-Z][a-z]+(?:\s[A-Z][a-z]+)?)?(?:,\s[A-Z]{2}(?:\s\d{5}(?:-\d{4})?)?)?)",
        case_sensitive=True,
    ),
    _compile_rule("address", r"(?P<x>(?:[\u4e00-\u9fff]{2,7}(?:省|"
        r"自治区))?[\u4e00-\u9fff]{2,6}市[\u4e00-\u9fff]{1,6}[区县](?:[\u4e00-\u9fff]{1,8}[路街道巷村](?:\d+号)?|\d+号)(?:\d+(?:栋|单元|室|楼))*)"),
    _compile_rule("name", rf"\b(?:Dr|DR|dr|Mr|MR|Mrs|MRS|Ms|Prof)\.\s?(?P<x>{_NAME})", case_sensitive=True),
    _compile_rule("name", rf"\b(?:Dr|Mr|Mrs|Ms|Miss|Prof|Professor|Doctor|Nurse)[ \t]+(?P<x>{_NAME})", case_sensitive=True),
    _compile_rule("name", rf"\b(?:[Pp]atient(?:'s)? [Nn]ame|[Nn]ame of (?:the )?patient|PATIENT NAME|Name|"
        rf"NAME)\s*[:=]\s*(?P<x>{_NAME})", case_sensitive=True),
    # A label alone often begins a turn of a dialogue ("Patient: Okay"); a name after it has two
    # words.
    _compile_rule("name", rf"\b(?:Patient|PATIENT)\s*[:=]\s*(?P<x>{_NOT_A_NAME}{_CAPITALIZED_WORD},?[ \t]+{_NOT_A_NAME}(?:[A-Z]\.[ \t]*)?{_CAPITALIZED_WORD})", case_sensitive=True),
    _compile_rule("name", rf"(?:[Rr]eferring|[Aa]ttending|[Rr]eading|[Oo]rdering|[Cc]onsulting) (?:[Pp]hysician|[Dd]octor|"
        rf"[Rr]adiologist)\s*[:=]\s*(?P<x>{_NAME})", case_sensitive=True),
    _compile_rule("name", rf"\b(?:[Ss]igned|[Dd]ictated|[Tt]ranscribed|[Rr]eported|[Vv]erified|[Rr]eviewed|"
        rf"[Aa]pproved) by\s*:?\s+(?P<x>{_NAME})", case_sensitive=True),
    _compile_rule("name", rf"\b(?:[Mm]y|[Hh]is|[Hh]er|[Pp]atient's|[Bb]aby's) name is (?P<x>{_NAME})|\b(?:[Rr]egards|[Ss]incerely|"
        rf"[Bb]est wishes|[Yy]ours)\s*,?\s+(?P<y>{_NAME})", case_sensitive=True),
    _compile_rule("name", r"\b(?P<x>[A-Za-z][A-Za-z'-]+\^[A-Za-z](?:[A-Za-z'^.-]*[A-Za-z'^.-])?)"),
    _compile_rule("name", r"(?:姓名|患者姓名|病人姓名|联系人|签名|报告医师|审核医师|主治医师)\s*[:：]\s*(?P<x>[\u4e00-\u9fff·]{2,4})"),
    _compile_rule("name", rf"(?P<x>[{_SURNAME}][\u4e00-\u9fff]{{1,2}}?)(?=(?:{_TITLE_ZH}))", exclude=r"[某姓]$"),
    _compile_rule("name", rf"(?P<x>[{_SURNAME}])(?=(?:{_TITLE_ZH}))"),
)  # fmt: skip
# Three Han characters before a title that are a name's form but common words: 黄色..., 陈旧..., 张力...,
# 林 and the like do not stop here.
_COMMON_WORDS_ZH = re.compile(
    "黄[色疸体]|陈[旧述]|张力|王牌|罗马|丁[香点]|沈[阳]|苏[打醒州]|钟[头]|范[围畴]|汪汪|陆[军续]|雷[射]|唐[山氏]|杜绝|林[区]|姜[汁]|曹操|董事|谢[绝]|谢谢|孟鲁|贺[喜]|宋[体代]|徐[徐]|杨[梅]"
)


def scrub_text(text: str) -> tuple[str, Counter[str]]:
    """The text with every identifier replaced by its kind in brackets, as [NAME], and how many
    there were of each kind.
    """
    counts: Counter[str] = Counter()
    for rule in RULES:
        text = _apply_rule(rule, text, counts)
    return text, counts


def _apply_rule(rule: IdentifierRule, text: str, counts: Counter[str]) -> str:
    pieces, last = [], 0
    for match in rule.pattern.finditer(text):
        group = "x" if match["x"] is not None else "y"
        value, (start, end) = match[group], match.span(group)
        if rule.exclude and rule.exclude.search(text[max(0, match.start() - 60) : match.end()]):
            continue
        if (
            not rule.digit_range[0] <= sum(c.isdigit() for c in value) <= rule.digit_range[1]
            or start < last
        ):
            continue
        if rule.kind == "name" and _COMMON_WORDS_ZH.match(value):
            continue
        pieces += [text[last:start], f"[{rule.kind.upper()}]"]
        last = end
        counts[rule.kind] += 1
    return "".join([*pieces, text[last:]]) if pieces else text
