"""Chat templates and what transformers renders of them; templates.ts compares.

usage: python make_templates.py OUT.json [RANDOM] [SEED] [BAKED]   (transformers 5.17 with jinja2; no torch)
BAKED gets those that are written here, for the suite.
"""

import copy, json, random, sys, warnings

warnings.filterwarnings("ignore")
from transformers.utils.chat_template_utils import render_jinja_template

CHATS = [
    [{"role": "user", "content": "Hello a world"}],
    [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "What is 2 < 3?\n\"Quoted\" & 'single'"},
     {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes"}, {"role": "user", "content": "naïve 🙂 日本\ttab\\"}],
]
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

EXPRESSIONS = (r"""
none
None
true
[none, true, 1, 1.0, "a'b", 'a"b', "it's \"x\"", '\n', 'é', '\x00']
{'a': 1, "b": [none, {'c': 2.5}], 3: 'x', true: 4}
(1, 2)
(1,)
()
1, 2
[]
{}
"a" ~ none ~ 1 ~ 2.0 ~ true ~ [1] ~ missing
"a" "b" 'c'
1 + 2 * 3 - 4 / 2
7 // 2
-7 // 2
7 % 3
-7 % 3
7.5 // 2
-7.5 % 2
2 ** 10
2 ** -1
2 ** 3 ** 2
-2 ** 2
10 / 5
1e3
1.5e-7
1_000
0x1F
0b101
0o17
1e16
123456789012345678901234567890
0.1 + 0.2
1/3
1e22
5 * "ab"
"ab" * 2
[1, 2] * 2
[1] + [2, 3]
(1,) + (2,)
"a" + 1
1 + "a"
1 + true
"a" + missing
missing + "a"
not missing
missing
missing.x
missing['x']
missing()
missing is defined
missing is undefined
missing == missing
missing == none
missing|length
missing|upper
missing|trim
missing|list
missing|join(',')
missing|default('d')
missing|default
none|default('d')
none|default('d', true)
''|default('d', true)
false|d('x', boolean=true)
missing|tojson
missing|int
missing|first
missing|last
"x" in missing
missing in "x"
missing in [1]
messages[0].missing is defined
messages[0].missing
messages[0]['missing'] is none
messages[0]['content']
messages[0].content
messages[0].items()|list
messages[0].items
messages[0].keys()|list
messages[0].values()|list
messages[0].get('content')
messages[0].get('x')
messages[0].get('x', 'y')
messages[0]
messages
messages|length
messages[-1].content
messages[5]
messages[5].content
messages[5] is defined
messages[0:1]
messages[1:]
messages[::-1]|map(attribute='role')|list
messages[:-1]|length
messages|last
messages|first
(messages|last)['content']
messages[0].content[0]
messages[0].content[-1]
messages[0].content[1:5]
messages[0].content[::-1]
messages[0].content[::2]
messages[0].content[10:2:-3]
messages[0].content[100:]
messages[-1].content[0:8]
messages[-1].content|length
messages[-1].content|upper
messages[-1].content|reverse
messages|map('upper')|list|length
messages|map(attribute='content')|list
messages|map(attribute='content')|map('upper')|join('|')
messages|map(attribute='x', default='?')|join
messages|map(attribute='content.0')|join
messages|selectattr('role', 'equalto', 'user')|list|length
messages|selectattr('role', '==', 'user')|map(attribute='content')|join('-')
messages|selectattr('role', 'in', ['user', 'system'])|list|length
messages|selectattr('role')|list|length
messages|selectattr('x')|list
messages|selectattr('x', 'defined')|list
messages|rejectattr('role', 'eq', 'user')|map(attribute='role')|list
messages|rejectattr('x', 'undefined')|list
[1, 2, 3, 4]|select('odd')|list
[1, 2, 3, 4]|reject('even')|list
[0, 1, '', 'a', none]|select|list
[0, 1, '', 'a', none]|reject|list
[1, 2, 3]|select('greaterthan', 1)|list
[1, 2, 3]|map('string')|list
['a', 'b']|map('replace', 'a', 'x')|list
(messages|map(attribute='role')) is iterable
messages|selectattr('role', 'equalto', 'nobody') is defined
'yes' if messages|selectattr('role', 'equalto', 'nobody') else 'no'
'yes' if messages|selectattr('role', 'equalto', 'nobody')|list else 'no'
messages|selectattr('role')|length
[3, 1, 2]|sort
[3, 1, 2]|sort(reverse=true)
['b', 'A', 'a', 'B']|sort
['b', 'A', 'a', 'B']|sort(case_sensitive=true)
messages|sort(attribute='role')|map(attribute='role')|list
[1, 2, 2, 'a', 'A']|unique|list
[1, 'a']|sort
[1, 2, 3]|sum
messages|sum(attribute='x')
[1, 2, 3]|max
['b', 'a']|min
[]|max
[]|first
[]|last
[1, 2, 3]|reverse|list
[1, 2, 3]|join
[1, none, 'a']|join(', ')
[1, 2, 3, 4, 5]|batch(2)|list
[1, 2, 3]|batch(2, 'x')|list
{'b': 1, 'a': 2}|dictsort
{'b': 1, 'a': 2}|dictsort(by='value')
{'b': 1}|items|list
{'b': 1, 'a': 2}|list
{'b': 1}|length
{'b': 1}.b
{'items': 5}.items
{'items': 5}['items']
{'get': 5}.get('get')
{'a': none}.a
{'a': none}.get('a', 5)
{'a': none}['a'] is none
'a' in {'a': 1}
'b' not in {'a': 1}
'el' in 'Hello'
1 in [1, 2]
1.0 in [1, 2]
1 in 'a'
[1, 2] == [1, 2]
{'a': 1} == {'a': 1.0}
(1, 2) == [1, 2]
1 == 1.0
1 == true
'1' == 1
'a' < 'b'
'a' < 1
[1, 2] < [1, 3]
1 < 2 < 3
1 < 2 > 3
not 1 == 2
1 if false
1 if false else 2
(1 if false) is defined
'a' if true else 'b' if false else 'c'
1 and 2
0 or 'x'
none and 1
'' or none
not true and false
"abc"|capitalize
"ABC def"|capitalize
"hello wORLD foo-bar (x"|title
"hello wORLD's"|title
"hello wORLD's".title()
"  a b  "|trim
"xxaxx"|trim('x')
"  a b  ".strip()
"xxaxx".strip('x')
"Hello".lstrip('H')
"Hello".rstrip('lo')
"a b c".rsplit(' ', 1)
"a b c".rsplit(' ', 1)[0]
"a  b c ".split()
"a  b c ".split(' ')
"a b c".split(' ', 1)
"a b c d".split(none, 2)
" a b c d ".rsplit(none, 2)
"a,b,c".split(',')[-1]
"abc".split('')
"a\nb\r\nc\n".splitlines()
"a\nb".splitlines(true)
"abc".upper()
"ABC".lower()
"abc".capitalize()
"aBc".swapcase()
"abc".startswith('a')
"abc".startswith(('x', 'a'))
"abc".endswith('bc')
"abc".find('c')
"abc".find('x')
"abcabc".rfind('b')
"abc".index('x')
"abcabc".count('bc')
"abc".replace('b', 'x')
"aaa".replace('a', 'b', 2)
"abc".replace('', '-')
"abc"|replace('b', 'x')
"aaa"|replace('a', 'b', 1)
", ".join(['a', 'b'])
", ".join([1])
"-".join("abc")
"abc".removeprefix('a')
"abc".removesuffix('c')
"a-b-c".partition('-')
"a-b-c".rpartition('-')
"abc".center(9, '*')
"abcd".center(9, '*')
"abc".ljust(5) ~ '|'
"abc".rjust(5) ~ '|'
"42".zfill(5)
"-42".zfill(5)
"abc".isalpha()
"12".isdigit()
"12".isdecimal()
" ".isspace()
"ABC".isupper()
"abc".islower()
"{} and {}".format('a', 1)
"{0}{1}{0}".format('a', 'b')
"{x}".format(x='y')
"%s-%s" % ('a', 1)
"%d%%" % 5
"%s" % [1]
"%s"|format('a')
"abc".encode()
"abc".foo
"abc".foo is defined
"abc"['upper']()
"abc"|first
"abc"|last
"abc"|list
"abc"|length
"a\tb"
"a\\nb"
'a\'b'
"\u00e9\x41\101\d"
"\é"
"a\
b"
"{{ x }}"
'%}'
"a b c"|wordcount
"a\nb\n\nc"|indent
"a\nb"|indent(2)
"a\nb"|indent(2, true)
"a\n\nb"|indent(2, blank=true)
"a\nb"|indent('> ')
"5"|int
"5.7"|int
"x"|int
"x"|int(3)
5.9|int
-5.9|int
"1e3"|int
true|int
none|int
"5.5"|float
"x"|float
5|float
2.5|round
3.5|round
2.4|round
2.123|round(2, 'floor')
2.1|round(method='ceil')
7|round
-5|abs
5|string ~ 5
5 is number
5.0 is number
true is number
"a" is string
5 is integer
5.0 is integer
true is integer
5.0 is float
[] is sequence
"a" is sequence
{} is sequence
{} is mapping
[] is mapping
[] is iterable
5 is iterable
none is none
none is not none
true is boolean
true is true
1 is true
false is false
5 is odd
4 is even
6 is divisibleby 3
6 is divisibleby(4)
"abc" is lower
"ABC" is upper
5 is eq 5
5 is equalto(5)
5 is ne 4
5 is lt 6
5 is gt 6
5 is ge 5
5 is le 4
'a' is in ['a', 'b']
'a' is in 'abc'
none is sameas none
range is callable
'upper' is filter
'nofilter' is filter
range(3)|list
range(1, 4)|list
range(5, 0, -2)|list
range(3)|length
range(3)[1]
2 in range(3)
range(200000)
dict(a=1, b='x')
dict([('a', 1)])
namespace(a=1).a
namespace().x is defined
{'a': [1, 2, {'b': none}], 'c': "é<>&'\"\n\u2028"}|tojson
{'a': [1, 2], 'e': [], 'f': {}}|tojson(indent=2)
{'b': 1, 'a': true}|tojson(sort_keys=true)
{'a': "é🙂"}|tojson(ensure_ascii=true)
[1, 2]|tojson(separators=(',', ':'))
[1, 2.0, 1e20, none, true]|tojson
"a/b</script>"|tojson
(1, 2)|tojson
{1: 2, none: 3, true: 4, 1.5: 5}|tojson
messages|tojson
messages[0]|tojson(indent=4)
"a"|tojson|safe
'<a>'|safe
tools is none
tools
documents is defined
add_generation_prompt
bos_token ~ eos_token
pad_token is defined
sep_token
enable_thinking is defined and enable_thinking is false
not tools
(tools or [])|length
loop is defined
self is defined
raise_exception('no ' ~ 1)
raise_exception()
5.bit_length
[1,2].index(2)
[1,2].count(2)
[1,2].append(3)
{}.update({})
"abc"|nofilter
5 is notest
[1, 2
1 +
"abc
a b
{'a': 1}.b.c
{'a': {'b': 'x'}}.a.b
[[1, 2], [3]][0][1]
[1, 2].0
(1, 2)[0]
messages[0].content.split(' ')[1]
messages[0].content.split()|length
messages[0].content|replace('a', 'b')|upper|trim
messages[0]['role'] == 'user' and messages[0].content is string
(messages|length) % 2 == 0
messages[0].role not in ['user', 'assistant']
'</think>' in messages[-1].content
messages|length > 1 and messages[2].content.split('</think>')[-1].lstrip('\n')
('a', 'b')|join
-1|abs
(-1)|abs
- 1
+1
1|string|length
"x" if messages is defined and messages else "y"
[messages[0].role, 'x']|join(': ')
{'a': 1, **{}}
'a' ~ 'b' * 2
'%05d' % 3
"abc"|attr('upper')
{'a': 1}|attr('a') is defined
"abc"|center(9)
loop.index
'a' 'b' ~ 'c'
1 if missing else 0
['a', 'b'] is sequence and ['a'] is not mapping
none == false
'' == none
[] == none
0 == false
"é" == "e\u0301"
"ß".upper()
"İ".lower()|length
"ΑΣ".lower()
"🙂a"[0]
"🙂a"|length
"🙂a".find('a')
"a\u00a0 b".split()
"\u3000a\u3000"|trim
"\ufeffa"|trim|length
"\x1ca\x1c"|trim
""", r"""
{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ m.role }}{% if not loop.last %},{% endif %}{% endfor %}
{% for m in messages %}{{ loop.first }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.previtem is defined }}{{ loop.nextitem.role }}{% endfor %}
{% for m in messages %}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}{{ loop.depth }}{% endfor %}
{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}
{% for k in messages[0] %}{{ k }};{% endfor %}
{% for c in "añ🙂" %}{{ c }}.{% endfor %}
{% for x in missing %}x{% endfor %}ok
{% for x in [] %}x{% else %}none{% endfor %}
{% for x in none %}x{% endfor %}
{% for x in 5 %}x{% endfor %}
{% for x in [1,2,3] if x is odd %}{{ x }}{{ loop.length }}{% endfor %}
{% for x in [1,2,3] if x > 5 %}{{ x }}{% else %}no{% endfor %}
{% for x in [1,2,3,4] %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}
{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for x in [[1, [2, 3]], 4] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}
{% for x in [1, 2] %}{% for y in [3, 4] %}{{ loop.index }}{{ x }}{{ y }} {% endfor %}{{ loop.index }}{% endfor %}
{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}
{% set ns = namespace(x=1) %}{% for i in [1, 2] %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}
{% set ns = namespace(found=false) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.found }}
{% set ns = {} %}{% set ns.x = 1 %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}
{% set a = 1, 2 %}{{ a }}
{% set a %} x {{ 1 }} {% endset %}[{{ a }}]
{% set a | upper | trim %} x {% endset %}[{{ a }}]
{% if false %}{% set y = 1 %}{% endif %}{{ y }}{{ y is defined }}
{% if true %}{% set y = 1 %}{% endif %}{{ y }}
{% if messages is defined %}a{% elif x %}b{% else %}c{% endif %}
{% if 0 %}a{% elif '' %}b{% else %}c{% endif %}
{% if not missing %}a{% endif %}
{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}{% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}{{ system_message }}{{ loop_messages|length }}
{% macro f(a, b='x') %}[{{ a }}{{ b }}]{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(b=3, a=4) }}{{ f() }}
{% macro f(a) %}{{ varargs }}{{ kwargs }}{{ a }}{% endmacro %}{{ f(1, 2, x=3) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(x=2) }}
{% macro f() %}{{ caller() }}!{% endmacro %}{% call f() %}in{% endcall %}
{% macro f() %}{{ caller(1) }}!{% endmacro %}{% call(x) f() %}in{{ x }}{% endcall %}
{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}
{% macro f() %}{{ x }}{% endmacro %}{% set x = 5 %}{{ f() }}
{% macro f() %}{{ messages|length }}{{ bos_token }}{% endmacro %}{{ f() }}
{{ f is defined }}{% macro f() %}{% endmacro %}{{ f is defined }}{{ f.name }}
{% macro f(a=none) %}{{ a is none }}{{ a }}{% endmacro %}{{ f() }}{{ f(none) }}{{ f(missing) }}
{% with q = 3 %}{{ q }}{% endwith %}{{ q }}
{% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z }}
{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}
{% set a = 5 %}{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}
{% filter upper %}a{{ 'b' }}{% endfilter %}
{% filter replace('a', 'x')|upper %}abc{% endfilter %}
{% raw %}{{ x }}{% if %}{% endraw %}|
{%- raw -%}  {{ x }}  {%- endraw -%}  |
{# comment #}a{#- b -#}  c
a  {#- b -#}  c
{% generation %}x{{ 1 }}{% endgeneration %}y
{% generation %}{% set q = 1 %}{% endgeneration %}{{ q is defined }}
{{ strftime_now("%Y")|length }}{{ strftime_now("%d %b %Y")|length }}{{ strftime_now("%%") }}
{% autoescape true %}{{ '<' }}{% endautoescape %}
{% include 'x' %}
{% block a %}x{% endblock %}
{% do 1 %}
{% unknown %}
{% if %}x{% endif %}
{% if true %}x
{% for x in y %}
{{ 'a' }
{{ }}
{% endif %}
{% set x = {'a': {'b': {}}} %}{{ x.a.b }}{{ {'a': {}}}}
{{ {'a': {'b': 1}}['a']['b'] }}
  {% if true %}
    a
  {% endif %}
b
{%- for m in messages -%}
  x
{%- endfor %}
  {{ 1 }}
  {%+ if true %}x{% endif +%}
y
a {{- 1 -}} b
a
{{- 1 }}
{% if true -%}

  x

{%- endif %}

z
	{% set a = 1 %}	{{ a }}
x {% set a = 1 %} y
{% set a = 1 %}   
{% set b = 2 %}
{{ a }}
line one
{# note #}
line two
{{ "keep" }}

{{ "two line ends" }}


{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>\n' + m.content + '\n' }}{% elif m.role == 'system' %}{{ '<|system|>\n' ~ m.content|trim }}{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}
""")

def statements():
    """Lines that begin a template each; longer templates stand in TEMPLATES."""
    return [line for line in EXPRESSIONS[1].split("\n") if line]


MULTILINE = [
    "  {% if true %}\n    a\n  {% endif %}\nb\n", "{%- for m in messages -%}\n  x\n{%- endfor %}\n", "  {{ 1 }}\n  {%+ if true %}x{% endif +%}\ny\n\n",
    "a {{- 1 -}} b\n \n", "a\n{{- 1 }}\n\n", "{% if true -%}\n\n  x\n\n{%- endif %}\n\nz", "\t{% set a = 1 %}\t{{ a }}", "x {% set a = 1 %} y",
    "{% set a = 1 %}   \n{% set b = 2 %}\n{{ a }}\n", "line one\n{# note #}\nline two", "a\r\nb\r{{ 'c\r\nd' }}\r\n{% if true %}\r\nx\r\n{% endif %}\r\n",
    "{#\n multi\n#}\nx", "x\n  {#- y #}\nz", "x\n  {# y -#}  \n z", "{% raw %}\n  {{ a }}\n{% endraw %}\nb", "  {% raw %} a {% endraw %}  \nb",
    "\n\n{% set x = 1 %}\n\n{{ x }}\n\n", "{% for i in [1,2] %}\n{{ i }}\n{% endfor %}\n", "{% for i in [1,2] %}\n  {%- if i == 1 %}\n a\n  {%- else %}\n b\n  {%- endif %}\n{% endfor %}",
    "{{ 'a\\\nb' }}", "{{ '''a''' }}", "{{ 1 }}{% if true %}\n{% endif %}\n{{ 2 }}", "\u00a0{% if true %}x{% endif %}", "a\u2028  {% if true %}x{% endif %}",
    "{{ messages[0].content\n   | upper }}", "{%\n if true\n%}x{% endif %}", "{%- set ns = namespace(i=0) -%}\n{%- for m in messages -%}\n{%- set ns.i = ns.i + 1 -%}\n{%- endfor -%}\n{{ ns.i }}",
]

TEMPLATES = {
    "chatml": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama 3 style": """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "qwen 3 style": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    "mistral style": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{{ bos_token }}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "gemma style": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
    "phi style": "{{ bos_token }}{% for message in messages %}{% if (message['role'] in ['user', 'system']) %}{{'<|' + message['role'] + '|>' + '\n' + message['content'] + '<|end|>' + '\n'}}{% elif message['role'] == 'assistant' and message['content'] %}{{'<|assistant|>' + '\n' + message['content'] + '<|end|>' + '\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "deepseek style": "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<|User|>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none %}{%- if ns.is_tool %}{{'x'}}{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<|Assistant|>' + content + eos_token}}{%- endif %}{%- endif %}{%- endfor -%}{% if ns.is_tool %}{{'<|tool_outputs_end|>'}}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{'<|Assistant|>'}}{% endif %}",
    "command-r style": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% elif false == true %}{% set loop_messages = messages %}{% set system_message = 'You are Command-R.' %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% if system_message != false %}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + system_message + '<|END_OF_TURN_TOKEN|>' }}{% endif %}{% for message in loop_messages %}{% set content = message['content'] %}{% if message['role'] == 'user' %}{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% elif message['role'] == 'assistant' %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'  + content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}",
    "tools by macro": """{%- macro render(value, depth=0) %}
{%- if value is mapping %}
{%- for key, item in value|dictsort %}
{{- '  ' * depth ~ key ~ ': ' ~ render(item, depth + 1) ~ '\\n' }}
{%- endfor %}
{%- elif value is string %}{{ value|tojson }}
{%- elif value is iterable %}{{ value|map('string')|join(', ') }}
{%- else %}{{ value }}
{%- endif %}
{%- endmacro %}
{%- for message in messages %}
{{ render(message) }}
{%- endfor %}""",
}


def rendered(template, chat):
    try:
        (text,), _ = render_jinja_template([copy.deepcopy(chat)], chat_template=template, add_generation_prompt=True, **NAMES)
        return {"text": text}
    except RecursionError:
        return {"error": "RecursionError"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:200]}


ATOMS = ["1", "0", "-3", "2.5", "'a b'", "''", "'ABC'", "none", "true", "false", "missing", "messages", "messages[0]", "messages[-1].content", "[1, 'x', none]",
         "{'a': 1, 'b': 'c'}", "(1, 2)", "range(3)", "'é🙂'", "messages[0].role", "tools", "bos_token", "ns.v", "[]", "{}", "'12'", "' x\\n'", "[3, 1, 2]", "['b', 'A']"]
FILTERS = ["upper", "lower", "trim", "length", "list", "first", "last", "join(',')", "string", "int", "float", "default('d')", "default('d', true)", "tojson", "title",
           "capitalize", "reverse", "sort", "unique|list", "map('string')|list", "map(attribute='role')|list", "select|list", "reject('none')|list",
           "selectattr('role','eq','user')|list", "replace('a', 'x')", "sum", "max", "min", "abs", "round", "indent(2)", "batch(2)|list", "dictsort", "items|list", "wordcount"]
TESTS = ["defined", "undefined", "none", "string", "number", "mapping", "sequence", "iterable", "integer", "float", "boolean", "true", "odd", "eq 1", "in [1, 'a b']", "lower", "sameas none"]
METHODS = ["strip()", "split()", "split(' ')", "upper()", "lower()", "startswith('a')", "replace('a','b')", "get('a')", "items()", "keys()|list", "title()", "rsplit(' ', 1)",
           "find('b')", "join(['x','y'])", "splitlines()", "count('a')", "isdigit()", "foo", "a", "0", "role"]
BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", ">=", "in", "not in", "and", "or"]


def expression(rng, depth):
    if depth == 0 or rng.random() < 0.15:
        return rng.choice(ATOMS)
    kind = rng.random()
    if kind < 0.3:
        return f"({expression(rng, depth - 1)})|{rng.choice(FILTERS)}"
    if kind < 0.4:
        return f"({expression(rng, depth - 1)}) is {rng.choice(['', 'not '])}{rng.choice(TESTS)}"
    if kind < 0.55:
        return f"({expression(rng, depth - 1)}).{rng.choice(METHODS)}"
    if kind < 0.65:
        return f"({expression(rng, depth - 1)})[{rng.choice(['0', '-1', '1:', '::-1', ':2', chr(39) + 'role' + chr(39), '5'])}]"
    if kind < 0.9:
        return f"{expression(rng, depth - 1)} {rng.choice(BINARY)} {expression(rng, depth - 1)}"
    return f"{expression(rng, depth - 1)} if {expression(rng, depth - 1)} else {expression(rng, depth - 1)}"


SPACES = ["", "", " ", "\n", "  \n  ", "\t", "\n\n"]


def block(rng, depth):
    s = lambda: rng.choice(SPACES)
    m = lambda: rng.choice(["", "", "-", "+"])
    o = lambda: rng.choice(["", "", "-"])
    if depth == 0:
        return s() + f"{{{{{o()} {expression(rng, 1)} {o()}}}}}" + s()
    inner = lambda: "".join(block(rng, depth - 1) for _ in range(rng.randint(1, 2)))
    kind = rng.randint(0, 6)
    if kind == 0:
        return s() + f"{{%{m()} if {expression(rng, 1)} {m()}%}}" + inner() + f"{{%{m()} else {m()}%}}" + inner() + f"{{%{m()} endif {m()}%}}" + s()
    if kind == 1:
        return s() + f"{{%{m()} for m in {rng.choice(['messages', '[1,2]', 'missing', 'range(2)'])} {m()}%}}" + inner() + "{{ loop.index }}" + f"{{%{m()} endfor {m()}%}}" + s()
    if kind == 2:
        return s() + f"{{%{m()} set q = {expression(rng, 1)} {m()}%}}" + s() + "{{ q }}" + s()
    if kind == 3:
        return s() + f"{{#{m()} note {m()}#}}" + s()
    if kind == 4:
        return s() + f"{{%{m()} set q {m()}%}}" + inner() + f"{{%{m()} endset {m()}%}}[{{{{ q }}}}]" + s()
    if kind == 5:
        return s() + f"{{%{m()} raw {rng.choice(['', '-'])}%}}" + s() + "{{ x }}" + s() + f"{{%{m()} endraw {m()}%}}" + s()
    return s() + "text" + s() + inner()


def main():
    out = sys.argv[1]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    rng = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    written = ["[{{ " + line + " }}]" for line in EXPRESSIONS[0].split("\n") if line] + statements() + MULTILINE + list(TEMPLATES.values())
    cases = [{"template": t, "chat": chat, **rendered(t, chat)} for t in written for chat in CHATS]
    if len(sys.argv) > 4:
        with open(sys.argv[4], "w", encoding="utf-8") as file:
            results = [[t, *({k: v for k, v in rendered(t, chat).items()} for chat in CHATS)] for t in written]
            file.write(json.dumps({"chats": CHATS, "names": NAMES}, ensure_ascii=False)[:-1] + ', "templates": [\n' + ",\n".join(json.dumps(r, ensure_ascii=False) for r in results) + "\n]}\n")
    for _ in range(count):
        template = "{%- set ns = namespace(v='w') -%}" + ("[{{ " + expression(rng, 3) + " }}]" if rng.random() < 0.6 else block(rng, 2) + block(rng, 2))
        chat = rng.choice(CHATS)
        cases.append({"template": template, "chat": chat, **rendered(template, chat)})
    with open(out, "w", encoding="utf-8") as file:
        json.dump({"names": NAMES, "cases": cases}, file)


main()
