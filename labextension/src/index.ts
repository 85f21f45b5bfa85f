import { ILayoutRestorer, type JupyterFrontEnd, type JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, IToolbarWidgetRegistry } from '@jupyterlab/apputils';
import { EditorExtensionRegistry, IEditorExtensionRegistry } from '@jupyterlab/codemirror';
import { ILauncher } from '@jupyterlab/launcher';
import { INotebookTracker, NotebookActions, type NotebookPanel } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';

import { addCommands, CommandIDs, load } from './commands';
import type { Translate } from './contract';
import { dpcIconUrl } from './icon';
import { type NotebookModel, Notebooks } from './model';
import { followQuestions, magicMark } from './prose';
import { HostButton } from './widgets/toolbar';
import { Sidebar } from './widgets/sidebar';
import { StatusItem } from './widgets/statusbar';

const PLUGIN_ID = 'dpc-jupyter:plugin';

const plugin: JupyterFrontEndPlugin<void> = {
  id: PLUGIN_ID,
  description: 'Choose whose machine answers, and see what it does.',
  autoStart: true,
  requires: [INotebookTracker, IToolbarWidgetRegistry, ISettingRegistry],
  optional: [ITranslator, ICommandPalette, ILayoutRestorer, ILauncher, IStatusBar],
  activate: (
    app: JupyterFrontEnd,
    tracker: INotebookTracker,
    toolbars: IToolbarWidgetRegistry,
    settingRegistry: ISettingRegistry,
    translator: ITranslator | null,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
    launcher: ILauncher | null,
    statusBar: IStatusBar | null
  ) => {
    const trans = (translator ?? nullTranslator).load('dpc_jupyter');
    const t: Translate = (text, ...args) => trans.__(text, ...args);
    const { commands } = app;
    const notebooks = new Notebooks(t);
    const buttons = new Map<NotebookPanel, HostButton>();
    const current = (): NotebookModel | null => tracker.currentWidget && notebooks.of(tracker.currentWidget);
    const openPanel = () => {
      (app.shell as Partial<{ expandLeft(id: string): void }>).expandLeft?.(sidebar.id); // Notebook 7 wants this, too
      app.shell.activateById(sidebar.id);
    };
    const settings = { offerToLoad: true, loadAutomatically: false, statusBar: true, showPeers: true };

    const sidebar = new Sidebar(() => void commands.execute(CommandIDs.load), t);
    app.shell.add(sidebar, 'left', { rank: 600, type: 'DPC' });
    restorer?.add(sidebar, sidebar.id);

    const status = new StatusItem(openPanel, t);
    statusBar?.registerStatusItem(PLUGIN_ID, {
      item: status,
      align: 'left',
      rank: 10,
      isActive: () => settings.statusBar && status.isActive(),
      activeStateChanged: status.activeStateChanged
    });

    const show = () => {
      sidebar.model = current();
      status.model = current();
      commands.notifyCommandChanged();
    };
    tracker.currentChanged.connect(show);

    notebooks.opened.connect((_, model) => {
      model.link.changed.connect(() => {
        commands.notifyCommandChanged();
        if (model.phase === 'absent' && settings.loadAutomatically && !model.note) {
          void model.link.load();
        }
      });
    });

    toolbars.addFactory<NotebookPanel>('Notebook', 'dpc-host', panel => {
      const button = new HostButton(notebooks.of(panel), load, t);
      button.offers = settings.offerToLoad;
      buttons.set(panel, button);
      button.disposed.connect(() => buttons.delete(panel));
      return button;
    });

    tracker.widgetAdded.connect((_, panel) => followQuestions(panel.content));

    // The user may load dpc_jupyter in a cell. To look after every cell would fill the log of kernels that do without.
    NotebookActions.executed.connect((_, { notebook, cell }) => {
      const panel = tracker.find(each => each.content === notebook);
      if (panel && cell.model.sharedModel.getSource().includes('dpc')) {
        notebooks.of(panel).link.retry();
      }
    });

    addCommands({
      commands,
      tracker,
      current,
      chooseHost: () => tracker.currentWidget && void buttons.get(tracker.currentWidget)?.open(),
      openPanel,
      pythonKernel: () => {
        const specs = app.serviceManager.kernelspecs.specs;
        const names = [specs?.default, ...Object.keys(specs?.kernelspecs ?? {})];
        return names.find(name => specs?.kernelspecs[name ?? '']?.language === 'python');
      },
      t
    });
    const category = t('DPC');
    for (const command of Object.values(CommandIDs)) {
      palette?.addItem({ command, category, args: { isPalette: true } });
    }
    launcher?.add({ command: CommandIDs.newNotebook, category: t('Notebook'), rank: 100, kernelIconUrl: dpcIconUrl });

    void settingRegistry.load(PLUGIN_ID).then(loaded => {
      const read = () => {
        Object.assign(settings, loaded.composite);
        status.showPeers = settings.showPeers;
        status.draw();
        status.refresh();
        buttons.forEach(button => (button.offers = settings.offerToLoad));
      };
      loaded.changed.connect(read);
      read();
    });
  }
};

const highlighting: JupyterFrontEndPlugin<void> = {
  id: 'dpc-jupyter:highlighting',
  description: 'Shows the magic in front of a question.',
  autoStart: true,
  requires: [IEditorExtensionRegistry],
  activate: (_: JupyterFrontEnd, extensions: IEditorExtensionRegistry) => {
    extensions.addExtension({
      name: 'dpc-magic',
      factory: () => EditorExtensionRegistry.createImmutableExtension(magicMark)
    });
  }
};

export default [plugin, highlighting];
