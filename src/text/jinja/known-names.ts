// Every filter and test of Jinja 3.1 as transformers sets it up, and the attributes that Python's values have. What is
// listed and not written here is refused when a template comes to it; other names are errors of the template.

const set = (names: string): ReadonlySet<string> => new Set(names.split(' '));

export const KNOWN_FILTERS = set(
  'abs attr batch capitalize center count d default dictsort e escape filesizeformat first float forceescape format ' +
    'groupby indent int items join last length list lower map max min pprint random reject rejectattr replace reverse ' +
    'round safe select selectattr slice sort string striptags sum title tojson trim truncate unique upper urlencode ' +
    'urlize wordcount wordwrap xmlattr',
);

export const KNOWN_TESTS = set(
  'boolean callable defined divisibleby eq equalto escaped even false filter float ge gt greaterthan in integer ' +
    'iterable le lower lt lessthan mapping ne none number odd sameas sequence string test true undefined upper',
);

/** A dot finds these before it finds a key of that name. */
export const PYTHON_ATTRIBUTES: Readonly<Record<string, ReadonlySet<string>>> = {
  str: set(
    'capitalize casefold center count encode endswith expandtabs find format format_map index isalnum isalpha isascii ' +
      'isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip ' +
      'maketrans partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split ' +
      'splitlines startswith strip swapcase title translate upper zfill',
  ),
  dict: set('clear copy fromkeys get items keys pop popitem setdefault update values'),
  list: set('append clear copy count extend index insert pop remove reverse sort'),
  tuple: set('count index'),
  range: set('count index start step stop'),
  int: set(
    'as_integer_ratio bit_count bit_length conjugate denominator from_bytes imag is_integer numerator real to_bytes',
  ),
  float: set('as_integer_ratio conjugate fromhex hex imag is_integer real'),
  generator: set('close gi_code gi_frame gi_running gi_suspended gi_yieldfrom send throw'),
  dict_items: set('isdisjoint mapping'),
  dict_keys: set('isdisjoint mapping'),
  dict_values: set('mapping'),
  NoneType: new Set(),
};
