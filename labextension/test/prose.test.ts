import { EditorState } from '@codemirror/state';
import { EditorView } from '@codemirror/view';
import { describe, expect, it } from 'vitest';

import { isQuestion, magicMark } from '../src/prose';

describe('a question cell', () => {
  it.each(['%%dpc_ask', '%%dpc_ask -H anna\nWhat?', '\n%%dpc_ask\nWhat?'])('is prose: %j', source =>
    expect(isQuestion(source)).toBe(true));

  it.each(['', '%dpc_ask What?', 'x = 1\n%%dpc_ask', '%%dpc_asks', '# %%dpc_ask'])('is not: %j', source =>
    expect(isQuestion(source)).toBe(false));

  it('shows its magic as such, as long as it is one', () => {
    const view = new EditorView({ state: EditorState.create({ doc: '%%dpc_ask -H anna\nWhat?', extensions: magicMark }) });
    expect(view.dom.querySelector('.dpc-lab-magic')?.textContent).toBe('%%dpc_ask');
    view.dispatch({ changes: { from: 0, insert: '#' } });
    expect(view.dom.querySelector('.dpc-lab-magic')).toBeNull();
  });
});
