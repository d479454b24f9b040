// Conversations with calls, written by a template of each family and read back: which family it is, is told by the template.

import { expect, it } from 'vitest';
import { Template } from '../../src/text/jinja/index.js';
import { joinParts } from '../../src/tools/answer-parts.js';
import { type AnswerStyle, answerReader, answerStyle } from '../../src/tools/families.js';
import { templateArguments, templateTools } from '../../src/tools/template-tools.js';
import type { Tool } from '../../src/tools/tool.js';

const TOOLS: readonly Tool[] = [
  {
    name: 'book_table',
    description: 'Books a table',
    parameters: {
      type: 'object',
      properties: { place: { type: 'string' }, seats: { type: 'integer' }, wishes: { type: 'array' } },
      required: ['place'],
    },
  },
  { name: 'menu.today' },
];

const GIVEN = [
  ['book_table', '{"place": "Zum \\"Löwen\\" <b>", "seats": 4, "wishes": ["window", {"quiet": true}]}'],
  ['menu.today', '{}'],
] as const;

/** Writes calls of an answer as models of the family do; `u` is what the user said, and tools come first. */
const TEMPLATES: Readonly<Record<string, readonly [AnswerStyle, string, string]>> = {
  hermes: [
    { calls: 'hermes', reasoning: 'qwen3' },
    '{{ tools | tojson }}{# </think> #}<a>{% for c in calls %}\n<tool_call>\n{{ {"name": c.function.name, "arguments": c.function.arguments} | tojson }}\n</tool_call>{% endfor %}',
    '<a>',
  ],
  coder: [
    { calls: 'qwen3_coder', reasoning: undefined },
    '{{ tools | tojson }}<a>{% for c in calls %}\n<tool_call>\n<function={{ c.function.name }}>\n{% for k, v in c.function.arguments.items() %}<parameter={{ k }}>\n{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}</function>\n</tool_call>{% endfor %}',
    '<a>',
  ],
  llama: [
    { calls: 'llama3_json', reasoning: undefined },
    '{# ipython #}{{ tools | tojson }}<a>{% for c in calls %}{% if not loop.first %}; {% endif %}{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}{% endfor %}',
    '<a>',
  ],
  mistral: [
    { calls: 'mistral', reasoning: 'mistral' },
    '{{ tools | tojson }}{# [THINK] #}<a>{% for c in calls %}[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}',
    '<a>',
  ],
  'mistral, as a list': [
    { calls: 'mistral', reasoning: undefined },
    '{{ tools | tojson }}<a>[TOOL_CALLS] [{% for c in calls %}{% if not loop.first %}, {% endif %}{{ {"name": c.function.name, "arguments": c.function.arguments, "id": "123456789"} | tojson }}{% endfor %}]',
    '<a>',
  ],
  glm: [
    { calls: 'glm45', reasoning: 'glm45' },
    '{{ tools | tojson }}{# </think> #}<a>{% for c in calls %}\n<tool_call>{{ c.function.name }}\n{% for k, v in c.function.arguments.items() %}<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v if v is string else v | tojson }}</arg_value>\n{% endfor %}</tool_call>{% endfor %}',
    '<a>',
  ],
  'deepseek v3': [
    { calls: 'deepseek_v3', reasoning: undefined },
    '{{ tools | tojson }}<a><｜tool▁calls▁begin｜>{% for c in calls %}<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ c.function.name }}\n```json\n{{ c.function.arguments | tojson }}\n```<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>',
    '<a>',
  ],
  'deepseek v3.1': [
    { calls: 'deepseek_v31', reasoning: 'deepseek_r1' },
    '{{ tools | tojson }}{# </think> #}<a><｜tool▁calls▁begin｜>{% for c in calls %}<｜tool▁call▁begin｜>{{ c.function.name }}<｜tool▁sep｜>{{ c.function.arguments | tojson }}<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>',
    '<a>',
  ],
  harmony: [
    { calls: 'openai', reasoning: 'openai_gptoss' },
    '{{ tools | tojson }}<a>{% for c in calls %}{% if not loop.first %}<|start|>assistant{% endif %}<|channel|>commentary to=functions.{{ c.function.name }} <|constrain|>json<|message|>{{ c.function.arguments | tojson }}<|call|>{% endfor %}',
    '<a>',
  ],
};

it.each(Object.entries(TEMPLATES))('%s', (_, [style, source, mark]) => {
  expect(answerStyle(source)).toEqual(style);
  const calls = GIVEN.map(([name, given]) => ({
    type: 'function',
    function: { name, arguments: templateArguments(given) },
  }));
  const whole = new Template(source).render({ tools: templateTools(TOOLS), calls });
  expect(whole).toContain('"required": ["place"]');
  const answer = whole.slice(whole.indexOf(mark) + mark.length);
  const reader = answerReader(style, { tools: TOOLS, prompt: whole.slice(0, -answer.length) });
  const read = joinParts([...reader.push(answer), ...reader.end()]);
  expect(read.content).toBe('');
  expect(read.calls.map((call) => [call.name, JSON.parse(call.arguments)])).toEqual(
    GIVEN.map(([name, given]) => [name, JSON.parse(given)]),
  );
});

it('names that there are not are refused, and none is none', () => {
  expect(answerStyle('<tool_call>', { calls: 'none', reasoning: 'deepseek_r1' })).toEqual({
    calls: undefined,
    reasoning: 'deepseek_r1',
  });
  expect(() => answerStyle('', { calls: 'pythonic' })).toThrow(
    /--tool_parser is pythonic: give auto, none or/,
  );
});
