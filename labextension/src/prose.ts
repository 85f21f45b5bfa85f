import type { ICellModel } from '@jupyterlab/cells';
import type { Notebook } from '@jupyterlab/notebook';
import { Decoration, type DecorationSet, type EditorView, ViewPlugin, type ViewUpdate } from '@codemirror/view';

/** Markdown, as in a text cell. */
const PROSE = 'text/x-ipythongfm';
const MAGIC = /^\s*%%dpc_ask\b/;

/** Whether a cell asks a question, which is prose and not Python. */
export function isQuestion(source: string): boolean {
  return MAGIC.test(source);
}

/** Let the question cells of a notebook be prose, as long as they are questions. */
export function followQuestions(notebook: Notebook): void {
  const cells = notebook.model?.cells;
  if (!cells) {
    return;
  }
  const seen = new WeakSet<ICellModel>();
  const follow = (cell: ICellModel) => {
    if (cell.type !== 'code' || seen.has(cell)) {
      return;
    }
    seen.add(cell);
    const apply = () => {
      const question = isQuestion(cell.sharedModel.getSource());
      if (question && cell.mimeType !== PROSE) {
        cell.mimeType = PROSE;
      } else if (!question && cell.mimeType === PROSE) {
        cell.mimeType = notebook.codeMimetype;
      }
    };
    cell.contentChanged.connect(apply);
    cell.mimeTypeChanged.connect(apply); // the notebook sets Python's again with each kernel
    apply();
  };
  for (const cell of cells) {
    follow(cell);
  }
  cells.changed.connect((_, change) => change.newValues.forEach(follow));
}

/** Shows the magic in front of a question as what it is. */
export const magicMark = ViewPlugin.fromClass(
  class {
    decorations: DecorationSet;

    constructor(view: EditorView) {
      this.decorations = mark(view);
    }

    update(update: ViewUpdate): void {
      if (update.docChanged) {
        this.decorations = mark(update.view);
      }
    }
  },
  { decorations: plugin => plugin.decorations }
);

function mark(view: EditorView): DecorationSet {
  const [magic] = MAGIC.exec(view.state.doc.line(1).text) ?? [];
  return magic ? Decoration.set([Decoration.mark({ class: 'dpc-lab-magic' }).range(0, magic.length)]) : Decoration.none;
}
