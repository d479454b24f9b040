// How an option is written: what the first look at a command line, its reader, the help and shells' completion go by.

export interface OptionSpec {
  /** `flag` takes no value, `list` may be repeated, `optional` may have a value or none. */
  readonly kind: 'value' | 'list' | 'flag' | 'optional';
  readonly describe: string;
  readonly group: string;
  /** Shown in the help. */
  readonly default?: string;
  /** One letter that stands for it after a single dash. */
  readonly short?: string;
  /** All that the value may be, or what it is most often. */
  readonly choices?: readonly string[];
  /** What it names, so that shells can complete it; a model is a folder, or one of the hub. */
  readonly names?: 'file' | 'folder' | 'model';
}

export type OptionTable = Readonly<Record<string, OptionSpec>>;
